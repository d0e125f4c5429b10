import math
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livevideo.v1.control_pb2 import BodyPose, CameraPose, ControlEvent, Keys, Look, Prompt
from livevideo.v1.session_pb2 import Model, Session
from services.control.gate import ControlGate
from services.control.gates import Gates
from services.errors import TooManyStreams

TRACKS = ["keys", "look", "camera", "body", "prompt"]
IDENTITY = [0.0, 0.0, 0.0, 1.0]


def gate_of(*, tracks: list[str] = TRACKS, burst: int = 100) -> ControlGate:
    model = Model(name="road", keys=["left", "right"], tracks=tracks)
    return ControlGate(model, controls_per_s=10.0, burst=burst)


def reason(gate: ControlGate, event: ControlEvent, now_s: float = 0.0) -> str | None:
    refused = gate.refusal(event, now_s)
    return refused.reason if refused else None


@pytest.mark.parametrize(
    "event",
    [
        ControlEvent(keys=Keys(down=["left", "right"])),
        ControlEvent(keys=Keys()),
        ControlEvent(look=Look(yaw_rad=math.pi, pitch_rad=-math.pi)),
        ControlEvent(camera=CameraPose(position_m=[1, 2, 3], rotation=IDENTITY, fov_rad=1.2)),
        ControlEvent(body=BodyPose(joints=[0.0, 1.0, 0.5, 0.5])),
        ControlEvent(prompt=Prompt(text="é" * 1000)),
    ],
    ids=lambda event: event.WhichOneof("track"),
)
def test_every_track_within_its_range_is_let_through(event: ControlEvent) -> None:
    event.seq = 1
    assert reason(gate_of(), event) is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ControlEvent(), "no_track"),
        (ControlEvent(keys=Keys(down=["jump"])), "unknown_key"),
        (ControlEvent(keys=Keys(down=["x" * 1_000_000])), "unknown_key"),
        (ControlEvent(keys=Keys(down=["left"] * 3)), "out_of_range"),
        (ControlEvent(look=Look(yaw_rad=math.nan)), "not_finite"),
        (ControlEvent(look=Look(pitch_rad=math.inf)), "not_finite"),
        (ControlEvent(look=Look(yaw_rad=3.2)), "out_of_range"),
        (ControlEvent(camera=CameraPose(position_m=[1, 2], rotation=IDENTITY)), "wrong_size"),
        (ControlEvent(camera=CameraPose(position_m=[1, 2, math.nan], rotation=IDENTITY)), "not_finite"),
        (ControlEvent(camera=CameraPose(position_m=[1, 2, 3], rotation=[0, 0, 0, 0])), "out_of_range"),
        (
            ControlEvent(camera=CameraPose(position_m=[1, 2, 3], rotation=IDENTITY, fov_rad=4)),
            "out_of_range",
        ),
        (ControlEvent(body=BodyPose(joints=[])), "wrong_size"),
        (ControlEvent(body=BodyPose(joints=[0.5])), "wrong_size"),
        (ControlEvent(body=BodyPose(joints=[0.5] * 514)), "wrong_size"),
        (ControlEvent(body=BodyPose(joints=[0.5, 1.5])), "out_of_range"),
        (ControlEvent(prompt=Prompt(text="é" * 1001)), "too_long"),
        (ControlEvent(prompt=Prompt(text="x" * 1_000_000)), "too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_with_a_short_reason(event: ControlEvent, expected: str) -> None:
    event.seq = 1
    refused = gate_of().refusal(event, 0.0)
    assert refused is not None
    assert refused.reason == expected
    assert len(refused.message) < 200


def test_a_track_that_the_model_does_not_obey_is_refused() -> None:
    gate = gate_of(tracks=["keys"])
    assert reason(gate, ControlEvent(seq=1, look=Look())) == "unknown_track"


def test_zero_old_and_repeated_seqs_are_refused() -> None:
    gate = gate_of()
    numbers = [0, 5, 5, 4, 6, 2**64 - 1, 2**64 - 1]
    reasons = [reason(gate, ControlEvent(seq=seq, keys=Keys())) for seq in numbers]
    assert reasons == ["old_seq", None, "old_seq", "old_seq", None, None, "old_seq"]


def test_a_refused_control_leaves_its_seq_free() -> None:
    gate = gate_of()
    assert reason(gate, ControlEvent(seq=7, keys=Keys(down=["jump"]))) == "unknown_key"
    assert reason(gate, ControlEvent(seq=7, keys=Keys(down=["left"]))) is None


def test_a_flood_is_refused_and_time_lets_controls_through_again() -> None:
    gate = gate_of(burst=3)
    reasons = [reason(gate, ControlEvent(seq=seq, keys=Keys())) for seq in range(1, 6)]
    assert reasons == [None, None, None, "flood", "flood"]
    assert reason(gate, ControlEvent(seq=4, keys=Keys()), now_s=0.1) is None
    assert reason(gate, ControlEvent(seq=5, keys=Keys()), now_s=0.1) == "flood"


def test_invalid_controls_count_towards_the_flood() -> None:
    gate = gate_of(burst=2)
    reasons = [reason(gate, ControlEvent(seq=0)) for _ in range(3)]
    assert reasons == ["old_seq", "old_seq", "flood"]


@given(
    steps_s=st.lists(st.floats(0, 1), max_size=60),
    burst=st.integers(1, 20),
)
def test_no_timing_lets_through_more_than_the_burst_and_the_rate(steps_s: list[float], burst: int) -> None:
    gate, now_s, passed = gate_of(burst=burst), 0.0, 0
    for seq, step_s in enumerate(steps_s, start=1):
        now_s += step_s
        passed += reason(gate, ControlEvent(seq=seq, keys=Keys()), now_s) is None
    assert passed <= burst + now_s * 10.0 + 1e-6


@given(st.floats(width=32), st.floats(width=32))
def test_no_angle_passes_that_is_not_between_minus_pi_and_pi(yaw_rad: float, pitch_rad: float) -> None:
    event = ControlEvent(seq=1, look=Look(yaw_rad=yaw_rad, pitch_rad=pitch_rad))
    fits = all(math.isfinite(angle) and abs(angle) < 3.141593 for angle in (yaw_rad, pitch_rad))
    assert (reason(gate_of(), event) is None) == fits


# The gates of several sessions


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def gates_of(clock: Clock, *, most_idle: int = 10) -> Gates:
    return Gates(controls_per_s=10.0, burst=20, streams_per_session=3, clock=clock, most_idle=most_idle)


def session_of(number: int) -> Session:
    return Session(session_id=f"road-{number}", model=Model(name="road", tracks=TRACKS))


def test_streams_one_after_another_get_no_more_than_one_stream_would() -> None:
    clock, passed, seq = Clock(), 0, 0
    gates = gates_of(clock)
    for _ in range(50):
        clock.now_s += 0.1
        with gates.entered(session_of(1)) as gate:
            for _ in range(30):
                seq += 1
                passed += reason(gate, ControlEvent(seq=seq, keys=Keys()), clock.now_s) is None
    assert passed <= 20 + 5.0 * 10.0


def test_a_gate_is_kept_until_a_new_one_would_let_no_more_through() -> None:
    clock = Clock()
    gates = gates_of(clock)
    with gates.entered(session_of(1)) as first:
        pass
    clock.now_s = 1.9
    with gates.entered(session_of(1)) as again:
        assert again._bucket is first._bucket
    clock.now_s = 1.9 + 2.0
    with gates.entered(session_of(2)):
        assert len(gates) == 1


def test_of_many_gates_without_streams_those_that_were_left_last_are_kept() -> None:
    gates = gates_of(Clock(), most_idle=4)
    with gates.entered(session_of(0)) as playing:
        for number in range(1, 9):
            with gates.entered(session_of(number)):
                assert len(gates) <= 1 + 4 + 1
        with gates.entered(session_of(0)) as again:
            assert again._bucket is playing._bucket


def test_a_session_has_no_more_streams_than_it_may_and_another_is_not_hindered() -> None:
    gates = gates_of(Clock())
    with ExitStack() as streams:
        for _ in range(3):
            streams.enter_context(gates.entered(session_of(1)))
        with pytest.raises(TooManyStreams, match="3 streams send its controls already"):
            streams.enter_context(gates.entered(session_of(1)))
        streams.enter_context(gates.entered(session_of(2)))
    with gates.entered(session_of(1)):
        pass


def test_a_number_that_was_lost_behind_one_stream_may_be_sent_again_on_another() -> None:
    gate = gate_of(burst=3)
    event = ControlEvent(seq=7, keys=Keys(down=["left"]))
    one, other = gate.of_stream(), gate.of_stream()
    assert [reason(one, event), reason(one, event)] == [None, "old_seq"]
    assert [reason(other, event), reason(other, event)] == [None, "flood"]

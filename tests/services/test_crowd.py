"""What a crowd of players got between them."""

import grpc
from grpc.aio import Metadata

from loadtests.crowd import _outcome
from loadtests.report import Report


def report(**changed: float) -> Report:
    numbers = dict.fromkeys(Report.__dataclass_fields__, 0.0) | {"frames": 100, "fps": 24.0} | changed
    return Report(**numbers)  # type: ignore[arg-type]


def refusal(*told: tuple[str, str]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, Metadata(), Metadata(*told))


def test_late_frames_count_by_how_many_frames_there_were() -> None:
    outcome = _outcome(2, [report(frames=300, late_ratio=0.01, fps=23.5), report(frames=100)], [])
    assert outcome.deadline_hit == 0.9925
    assert (outcome.frames, outcome.fps_least) == (400, 23.5)


def test_who_is_refused_is_counted_by_reason_with_the_longest_time_to_wait() -> None:
    told = [
        refusal(("reason", "engine_full"), ("retry-after-s", "5")),
        refusal(("reason", "engine_full"), ("retry-after-s", "2")),
        refusal(),
    ]
    outcome = _outcome(4, [report()], told)
    assert (outcome.asked, outcome.seated) == (4, 1)
    assert outcome.refused == {"engine_full": 2, "unknown": 1}
    assert outcome.retry_after_s == 5


def test_a_crowd_that_was_refused_has_no_frames() -> None:
    outcome = _outcome(1, [], [refusal(("reason", "no_engine"))])
    assert (outcome.seated, outcome.deadline_hit) == (0, 0.0)


def test_a_session_that_broke_counts_as_seated_and_as_broken() -> None:
    outcome = _outcome(2, [report()], [], broken=1)
    assert (outcome.seated, outcome.broken) == (2, 1)

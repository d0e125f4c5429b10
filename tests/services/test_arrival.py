"""What is made again of a session whose engine and decoder have both died: no more, no less, in its place."""

import time

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.engine_pb2 import Held, Latent
from livevideo.v1.resume_pb2 import ObeyedControl, RecallResponse, SnapshotRequest
from livevideo.v1.session_pb2 import FollowResponse, Session
from services.engine.arrival import MOST_AGAIN, after, at_beginning, recalled

KEYS = ("left", "right")
PERIOD_S = 4 / 24
FIRST_OF_11, FIRST_OF_13 = 41, 49


def obeyed(seq: int, frame_index: int, *down: str) -> ObeyedControl:
    event = ControlEvent(seq=seq, keys=Keys(down=down))
    return ObeyedControl(control=FollowResponse(event=event), frame_index=frame_index)


def recall(*controls: ObeyedControl, age_s: float = 2.0) -> RecallResponse:
    past = [Latent(index=9, control_seq=4, held=Held(keys=["left"], prompt="snow"))]
    made_at_s = time.time() - age_s
    return RecallResponse(snapshot=SnapshotRequest(past=past, made_at_s=made_at_s), obeyed=controls)


def test_latents_that_were_seen_are_made_again_under_the_controls_that_they_obeyed() -> None:
    told = recall(obeyed(5, FIRST_OF_11, "right"), obeyed(6, FIRST_OF_13, "left", "right"))
    arrival = recalled(KEYS, Session(), told, 14, PERIOD_S)
    assert arrival.prompt == "snow"
    assert arrival.again is not None
    assert [turn.keys for turn in arrival.again] == [(1, 0), (0, 1), (0, 1), (1, 1)]
    assert [turn.control_seq for turn in arrival.again] == [4, 5, 5, 6]
    assert arrival.mailbox.newest_seq == 6


def test_a_control_that_was_obeyed_beyond_what_was_seen_is_obeyed_anew_and_once() -> None:
    told = recall(obeyed(5, FIRST_OF_11, "right"), obeyed(6, FIRST_OF_13))
    arrival = recalled(KEYS, Session(), told, 12, PERIOD_S)
    assert arrival.again is not None
    assert [turn.keys for turn in arrival.again] == [(1, 0), (0, 1)]
    assert arrival.mailbox.newest_seq == 5, "6 comes again, by Follow"


def test_nothing_is_made_again_for_a_viewer_who_takes_whatever_comes() -> None:
    arrival = recalled(KEYS, Session(), recall(), 0, PERIOD_S)
    assert not arrival.again
    assert arrival.mailbox.newest_seq == 4


def test_no_more_is_made_again_than_there_was_time_for() -> None:
    arrival = recalled(KEYS, Session(), recall(age_s=1.0), 2**63, PERIOD_S)
    assert arrival.again is not None
    assert 7 <= len(arrival.again) <= 8 + 60  # a machine may stand still in a test, too
    arrival = recalled(KEYS, Session(), recall(age_s=3600.0), 2**63, PERIOD_S)
    assert arrival.again is not None
    assert len(arrival.again) == MOST_AGAIN


def test_a_session_that_died_before_its_first_snapshot_is_made_again_from_its_beginning() -> None:
    session = Session(epoch=2, newest_seq=9, prompt="rain", opened_at_s=time.time() - 1.0)
    told = RecallResponse(obeyed=[obeyed(1, 5, "right")])
    arrival = recalled(KEYS, session, told, 4, PERIOD_S)
    assert arrival.again is not None
    assert [turn.keys for turn in arrival.again] == [(0, 0), (0, 1), (0, 1)]
    assert arrival.again[0].standing_prompt == "rain"
    assert not recalled(KEYS, session, told, 0, PERIOD_S).again


def test_a_session_with_its_latents_knows_what_was_held() -> None:
    arrival = after(KEYS, [Latent(index=3, control_seq=2, held=Held(keys=["right"], prompt="snow"))])
    assert arrival.stood is not None
    assert (arrival.stood.keys, arrival.prompt, arrival.mailbox.newest_seq) == ((0, 1), "snow", 2)


def test_a_world_that_begins_again_obeys_nothing_twice() -> None:
    assert at_beginning(KEYS, Session(epoch=1, newest_seq=9)).mailbox.take().control_seq == 0
    assert at_beginning(KEYS, Session(epoch=2, newest_seq=9)).mailbox.take().control_seq == 9

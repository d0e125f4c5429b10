"""Where a session goes on: seats that are lost, kept, moved and taken over, and the fence around each."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from livevideo.v1.control_pb2 import ControlReceipt, Obeyed
from livevideo.v1.engine_pb2 import Latent
from livevideo.v1.resume_pb2 import SnapshotRequest
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session, SessionState
from services import errors
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAITING, LIVE = SessionState.SESSION_STATE_WAITING, SessionState.SESSION_STATE_LIVE


async def announced(store: SessionStore, road: Model, *replicas: str, slots: int = 2) -> None:
    for replica in replicas:
        await store.announce(
            AnnounceRequest(replica=replica, address=f"{replica}:1", model=road, slots=slots)
        )


@pytest.fixture
async def played(patient: SessionStore, road: Model) -> str:
    """A session that engine a plays in epoch 1, while b has room."""
    await announced(patient, road, "a")
    session = await patient.open(Session(model=road))
    await patient.claim(session.session_id, "a", after_epoch=0)
    await announced(patient, road, "b")
    return session.session_id


@pytest.fixture
async def brief(valkey_url: str) -> "AsyncIterator[SessionStore]":
    store = SessionStore(valkey_url, StoreLimits(live_seat_s=60, lease_s=0.3, command_s=5.0))
    yield store
    await store.close()


async def test_who_lost_its_seat_gets_another_at_once_and_without_the_engine_that_failed(
    patient: SessionStore, played: str
) -> None:
    assert (await patient.place(played)).replica == "a", "nobody has lost anything yet"
    placed = await patient.place(played, lost_epoch=1, without="a")
    assert (placed.replica, placed.replica_address, placed.epoch, placed.state) == ("b", "b:1", 1, WAITING)
    assert (await patient.claim(played, "b", after_epoch=1)).epoch == 2


async def test_a_seat_that_lives_is_moved_by_nobody_who_did_not_have_it(
    patient: SessionStore, played: str
) -> None:
    assert (await patient.place(played, without="a")).replica == "a"
    with pytest.raises(errors.SeatTaken):
        await patient.claim(played, "b", after_epoch=1)
    with pytest.raises(errors.SeatTaken):
        await patient.claim(played, "a")


async def test_the_engine_that_holds_a_seat_may_give_it_to_another_viewer(
    patient: SessionStore, played: str
) -> None:
    assert (await patient.claim(played, "a", after_epoch=1)).epoch == 2
    await patient.release(played, 1)
    assert (await patient.find(played)).state == LIVE, "the older stay has nothing to give up any more"


async def test_of_two_that_go_on_with_one_session_one_is_refused(patient: SessionStore, played: str) -> None:
    await patient.place(played, lost_epoch=1, without="a")
    await patient.claim(played, "b", after_epoch=1)
    with pytest.raises(errors.Superseded):
        await patient.claim(played, "a", after_epoch=1)
    with pytest.raises(errors.Superseded):
        await patient.place(played, lost_epoch=1, without="b")
    with pytest.raises(errors.Superseded):
        await patient.renew(played, 1)


async def test_who_did_not_hear_of_its_own_claim_has_lost_that_seat_too(
    patient: SessionStore, played: str
) -> None:
    """As where an engine dies between claiming a session and saying so."""
    await patient.place(played, lost_epoch=1, without="a", viewer="mine")
    await patient.claim(played, "b", after_epoch=1, viewer="mine")
    with pytest.raises(errors.Superseded):
        await patient.place(played, lost_epoch=1, without="b", viewer="another's")
    placed = await patient.place(played, lost_epoch=1, without="b", viewer="mine")
    assert (placed.replica, placed.epoch) == ("a", 2)
    assert (await patient.claim(played, "a", after_epoch=2, viewer="mine")).epoch == 3


async def test_an_epoch_that_redis_has_lost_is_believed(patient: SessionStore, played: str) -> None:
    """As after a failover to a replica that had not heard of the last claims."""
    await patient.renew(played, 3)
    assert (await patient.find(played)).epoch == 3
    await patient.place(played, lost_epoch=4, without="a")
    assert (await patient.claim(played, "b", after_epoch=4)).epoch == 5
    with pytest.raises(errors.Superseded):
        await patient.renew(played, 3)


async def test_where_there_is_no_other_engine_the_one_that_failed_is_tried_again(
    patient: SessionStore, road: Model
) -> None:
    await announced(patient, road, "a")
    session_id = (await patient.open(Session(model=road))).session_id
    await patient.claim(session_id, "a")
    assert (await patient.place(session_id, lost_epoch=1, without="a")).replica == "a"
    with pytest.raises(errors.NoEngine):
        await patient.place(session_id, lost_epoch=1, without="a", is_planned=True)
    await announced(patient, road, "b", slots=0)
    with pytest.raises(errors.EngineFull):
        await patient.place(session_id, lost_epoch=1, without="a", is_planned=True)


async def test_a_seat_that_is_moved_by_plan_plays_on_until_it_is_claimed_there(
    patient: SessionStore, played: str
) -> None:
    assert (await patient.place(played, lost_epoch=1, without="a", is_planned=True)).replica == "b"
    await patient.renew(played, 1)
    found = await patient.place(played)
    assert (found.replica, found.state, found.epoch) == ("a", LIVE, 1), (
        "whoever comes goes where it is played"
    )
    assert (await patient.claim(played, "b", after_epoch=1)).epoch == 2
    assert (await patient.place(played)).replica == "b"


async def test_a_seat_waits_for_its_viewer_and_is_nobody_elses(patient: SessionStore, road: Model) -> None:
    await announced(patient, road, "a", slots=1)
    session_id = (await patient.open(Session(model=road))).session_id
    await patient.claim(session_id, "a")
    await patient.release(session_id, 1)
    with pytest.raises(errors.EngineFull):
        await patient.open(Session(model=road))
    assert (await patient.place(session_id)).replica == "a"


async def test_a_seat_does_not_wait_for_ever(valkey_url: str, road: Model) -> None:
    store = SessionStore(valkey_url, StoreLimits(away_seat_s=0.05, lease_s=60))
    await announced(store, road, "a", slots=1)
    session_id = (await store.open(Session(model=road))).session_id
    await store.claim(session_id, "a")
    await store.release(session_id, 1)
    await asyncio.sleep(0.1)
    await store.open(Session(model=road))
    with pytest.raises(errors.EngineFull):
        await store.place(session_id)
    await store.close()


async def test_asking_after_a_session_takes_no_seat(valkey_url: str, road: Model) -> None:
    store = SessionStore(valkey_url, StoreLimits(waiting_seat_s=0.05, lease_s=60))
    await announced(store, road, "a", slots=1)
    session_id = (await store.open(Session(model=road))).session_id
    await asyncio.sleep(0.1)
    assert (await store.find(session_id)).state == WAITING
    await store.open(Session(model=road))
    await store.close()


async def test_a_seat_of_an_engine_that_is_silent_lapses_however_often_it_is_renewed(
    brief: SessionStore, road: Model
) -> None:
    await announced(brief, road, "a")
    session_id = (await brief.open(Session(model=road))).session_id
    await brief.claim(session_id, "a")
    await asyncio.sleep(0.4)
    await brief.renew(session_id, 1)
    assert (await brief.find(session_id)).state == WAITING
    await announced(brief, road, "b")
    assert (await brief.place(session_id)).replica == "b"


async def test_after_an_outage_an_engine_has_its_seat_again(brief: SessionStore, road: Model) -> None:
    await announced(brief, road, "a")
    session_id = (await brief.open(Session(model=road))).session_id
    await brief.claim(session_id, "a")
    await asyncio.sleep(0.4)
    await announced(brief, road, "a")
    await brief.renew(session_id, 1)
    assert (await brief.find(session_id)).state == LIVE


async def test_a_second_engine_of_one_name_is_refused_while_the_first_lives(
    brief: SessionStore, road: Model
) -> None:
    await announced(brief, road, "a")
    second = AnnounceRequest(replica="a", address="elsewhere:1", model=road, slots=2)
    with pytest.raises(errors.ReplicaTaken, match="set another REPLICA"):
        await brief.announce(second)
    await announced(brief, road, "a", slots=0)  # it leaves
    await brief.announce(second)
    await asyncio.sleep(0.4)
    await announced(brief, road, "a")  # the second one died


async def test_a_snapshot_is_kept_with_what_was_obeyed_since(patient: SessionStore, played: str) -> None:
    assert not (await patient.recall(played)).HasField("snapshot")
    for seq in range(1, 6):
        await patient.push(played, control(seq, played))
    for seq, frame_index in ((1, 5), (2, 9), (3, 13), (4, 17)):
        await patient.obeyed(played, 1, ControlReceipt(seq=seq, obeyed=Obeyed(frame_index=frame_index)))
    snapshot = SnapshotRequest(session_id=played, epoch=1, past=[Latent(index=3, control_seq=2)])
    await patient.keep(snapshot)
    await patient.claim(played, "a", after_epoch=1)
    again = ControlReceipt(seq=4, obeyed=Obeyed(frame_index=21))
    await patient.obeyed(played, 2, again)
    recall = await patient.recall(played)
    assert recall.snapshot == snapshot
    obeyed = [(each.control.event.seq, each.frame_index) for each in recall.obeyed]
    assert obeyed == [(3, 13), (4, 21)], "the later engine's word counts, and 5 was obeyed by nobody"
    with pytest.raises(errors.Superseded):
        await patient.keep(snapshot)
    await patient.end(played)
    assert not (await patient.recall(played)).HasField("snapshot")
    with pytest.raises(errors.SessionClosed):
        await patient.keep(snapshot)

"""A session's newest prompt outlives the log of its controls."""

import asyncio

import pytest
from redis.asyncio import Redis

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Obeyed, Prompt
from livevideo.v1.session_pb2 import AnnounceRequest, FollowResponse, Session
from services.engine.arrival import at_beginning, recalled
from services.engine.mailbox import Mailbox
from services.sessions import scripts
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import DEADLINE_S, Sessions, control, following, opened_and_claimed

KEYS = ("left",)
NEWEST = 500


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(controls_kept=100, command_s=5.0)


def prompt(seq: int, text: str) -> FollowResponse:
    return FollowResponse(event=ControlEvent(seq=seq, prompt=Prompt(text=text)))


async def pushed(store: SessionStore, session_id: str, *controls: FollowResponse) -> None:
    for each in controls:
        await store.push(session_id, each)


@pytest.fixture
async def session_id(session_stub: Sessions, store: SessionStore, announcement: AnnounceRequest) -> str:
    """Its two prompts are so old that the log has lost them; the first one was sent again."""
    session = await opened_and_claimed(session_stub, announcement)
    snow, rain = prompt(1, "snow"), prompt(2, "rain")
    await pushed(store, session.session_id, snow, rain, snow, *map(control, range(3, NEWEST + 1)))
    return session.session_id


async def followed(stub: Sessions, session_id: str, after_seq: int = 0) -> list[FollowResponse]:
    """What Follow brings, up to the newest control."""
    follow = await following(stub, session_id, 1, after_seq)
    brought = list[FollowResponse]()
    while not brought or brought[-1].event.seq < NEWEST:
        said = await asyncio.wait_for(follow.read(), DEADLINE_S)
        assert isinstance(said, FollowResponse)
        brought.append(said)
    follow.cancel()
    return brought


def standing(mailbox: Mailbox, brought: list[FollowResponse]) -> str:
    """The prompt in force after these controls."""
    for each in brought:
        mailbox.put(each.event, received_at_s=0.0, path_s=0.0, now_s=0.0)
    return mailbox.take().standing_prompt


async def test_a_world_that_begins_again_hears_the_newest_prompt_before_all_else(
    session_stub: Sessions, session_id: str
) -> None:
    brought = await followed(session_stub, session_id)
    seqs = [each.event.seq for each in brought]
    assert seqs[0] == 2
    assert seqs[1] > 3, "the log has lost it"
    assert seqs == sorted(set(seqs))
    session = Session(epoch=2, newest_seq=NEWEST, prompt="sun")
    assert standing(at_beginning(KEYS, session).mailbox, brought) == "rain"
    assert [each.event.seq for each in await followed(session_stub, session_id, 2)] == seqs[1:], "it is known"


async def test_a_prompt_that_the_log_has_comes_once_and_in_its_place(
    session_stub: Sessions, store: SessionStore, announcement: AnnounceRequest
) -> None:
    session = await opened_and_claimed(session_stub, announcement)
    controls = [control(1), prompt(2, "rain"), control(NEWEST)]
    await pushed(store, session.session_id, *controls)
    assert await followed(session_stub, session.session_id) == controls


async def test_what_is_made_again_from_the_beginning_is_made_under_the_prompt_that_the_log_has_lost(
    store: SessionStore, session_id: str
) -> None:
    for seq, frame_index in ((2, 9), (NEWEST, 13)):
        receipt = ControlReceipt(seq=seq, obeyed=Obeyed(frame_index=frame_index))
        await store.obeyed(session_id, 1, receipt)
    recall = await store.recall(session_id)
    assert [(each.control.event.seq, each.frame_index) for each in recall.obeyed] == [(2, 9), (NEWEST, 13)]
    arrival = recalled(KEYS, Session(prompt="sun"), recall, 5, 1 / 6)
    assert arrival.again is not None
    assert [turn.standing_prompt for turn in arrival.again] == ["sun", "sun", "rain", "rain"]


async def test_a_session_whose_record_knows_no_prompt_is_followed_as_before(
    session_stub: Sessions, store: SessionStore, session_id: str, valkey_url: str
) -> None:
    async with Redis.from_url(valkey_url) as redis:
        await redis.hdel(scripts.session_key(session_id, "session"), "prompt")
    assert (await followed(session_stub, session_id))[0].event.seq > 3
    assert not (await store.recall(session_id)).obeyed

"""An engine's side of Follow: no receipt is lost however often the call breaks, and nothing stays behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from livevideo.v1 import session_pb2_grpc
from livevideo.v1.admin_pb2 import GetUsageRequest, NewKey, RevokeRequest
from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    FollowRequest,
    FollowResponse,
    OpenRequest,
    PushRequest,
)
from services.app import Context, Service
from services.credentials import bearer
from services.engine.feed import ControlFeed
from services.engine.mailbox import Mailbox
from services.engine.residence import Residence
from tests.services.asking import Sessions
from tests.services.paying import Admin
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]

BREAKS = 3
DEADLINE_S = 30.0


@dataclass
class BreakingSessions(Scripted, session_pb2_grpc.SeatServiceServicer):
    """Breaks the first Follow calls when they are told to; every call notes the receipts that it heard."""

    heard: list[int] = field(default_factory=list)
    calls: int = 0
    is_broken: asyncio.Event = field(default_factory=asyncio.Event)

    async def Follow(
        self, requests: AsyncIterator[FollowRequest], context: Context
    ) -> AsyncIterator[FollowResponse]:
        await anext(requests)
        self.calls += 1
        yield FollowResponse(event=ControlEvent(seq=self.calls, keys=Keys()), received_at_s=time.time())
        if self.calls <= BREAKS:
            await self.is_broken.wait()
            self.is_broken.clear()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
        async for request in requests:
            self.heard.append(request.obeyed.seq)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 (another process's doing, as far as the test can tell)
            await asyncio.sleep(0.01)


async def test_no_receipt_is_lost_however_often_follow_breaks(
    serve: Serve,
    dial: "Callable[[str], grpc.aio.Channel]",
    running: Callable[[], set["asyncio.Task[object]"]],
    until_ended: Callable[[set["asyncio.Task[object]"]], Awaitable[None]],
) -> None:
    sessions = BreakingSessions()  # type: ignore[abstract]
    stub = Sessions(dial(await serve(sessions)))
    before = running()
    mailbox = Mailbox(("up",))
    feed = ControlFeed(stub, "road-1", 1, Residence(0, 0, 0.0, lambda residence: None), mailbox, retry_s=0.01)
    task = asyncio.create_task(feed.run(time.monotonic))
    for call in range(1, BREAKS + 1):
        await eventually(lambda call=call: mailbox.newest_seq == call)  # type: ignore[misc]
        sessions.is_broken.set()
    await eventually(lambda: mailbox.newest_seq == BREAKS + 1)
    for seq in range(1, 21):
        feed.obeyed([seq], frame_index=seq)
    await eventually(lambda: len(sessions.heard) >= 20)
    assert sessions.heard == [*range(1, 21)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_ended(before)


async def test_a_claim_tells_the_newest_control_so_that_a_world_that_begins_again_obeys_none_twice(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    await session_stub.Announce(announcement)
    session = await session_stub.Open(OpenRequest(model="road"))
    call = session_stub.Push()
    for seq in (3, 2**60 + 1):
        event = ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=["up"]))
        await call.write(PushRequest(event=event, received_at_s=time.time()))
        await call.read()
    claimed = await session_stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    assert claimed.newest_seq == 2**60 + 1
    call.cancel()
    again = Mailbox(("up",), obeyed_seq=claimed.newest_seq)
    again.put(event, received_at_s=1.0, path_s=0.0, now_s=2.0)
    turn = again.take()
    assert turn.keys == (1.0,), "what is held is known"
    assert not turn.seqs, "and obeyed already"


async def test_what_was_made_when_a_session_was_revoked_is_counted_too(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session = await session_stub.Open(OpenRequest(), metadata=bearer(acme.key))
    await session_stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    residence = Residence(0, 0, 0.0, lambda residence: None)
    feed = ControlFeed(session_stub, session.session_id, 1, residence, Mailbox(("up",)))
    feed.made(3)
    following = asyncio.create_task(feed.run(time.monotonic))
    await admin_stub.Revoke(RevokeRequest(name="acme"))
    await asyncio.wait_for(following, DEADLINE_S)
    feed.obeyed([1], frame_index=9)
    feed.made(7)  # Follow has ended
    for _ in range(2):  # once, however often it is told
        await asyncio.wait_for(feed.settle(), DEADLINE_S)
        days = (await admin_stub.GetUsage(GetUsageRequest(name="acme"))).days
        assert sum(day.latents for day in days) == 7

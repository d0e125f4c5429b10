"""`Sessions`: the *sessions* that one was told of; where one has no answer, the next one is asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from livevideo.v1.session_pb2 import OpenRequest, Place, Session
from livevideo_client.access import Metadata
from livevideo_client.comeback import LEASE_S, LONGEST_RETRY_S, RETRY_S
from livevideo_client.refusals import BadCertificate, Unavailable, refusal_of

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

Answer = TypeVar("Answer")


class Sessions:
    """All of them know the same sessions."""

    def __init__(self, stubs: "Sequence[SessionServiceAsyncStub]") -> None:
        self.stubs = stubs
        self._answering = 0  # which one answered last

    async def ask(self, call: "Callable[[SessionServiceAsyncStub], Awaitable[Answer]]") -> Answer:
        """What the first one says that is available. Raises Refused: what it said, or that none is."""
        unavailable: Unavailable | None = None
        for number in range(self._answering, self._answering + len(self.stubs)):
            asked = number % len(self.stubs)
            try:
                answer = await call(self.stubs[asked])
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                if not isinstance(refusal, Unavailable):
                    raise refusal from error
                if unavailable is None or unavailable.reason == "no_answer":
                    unavailable = refusal  # who answers knows more
            else:
                self._answering = asked
                return answer
        assert unavailable is not None, "there is an address, or Services would have refused"
        raise unavailable

    async def wait(self, request: OpenRequest, known: Metadata, on_place: Callable[[Place], None]) -> Session:
        """A session, once it is one's turn. Where a place is lost, one is taken again; not for ever."""
        has_place, lost_at_s = False, 0.0  # 0: it is not lost

        async def queue(stub: "SessionServiceAsyncStub") -> Session:
            nonlocal has_place, lost_at_s
            async for said in stub.Wait(request, metadata=known):
                if said.HasField("session"):
                    return said.session
                has_place, lost_at_s = True, 0.0
                on_place(said.place)
            raise Unavailable("queue_ended", "the queue has ended without a seat", 1.0)

        while True:
            try:
                return await self.ask(queue)
            except Unavailable as refusal:
                lost_at_s = lost_at_s or time.monotonic()
                is_nobody = isinstance(refusal, BadCertificate) or refusal.reason == "no_answer"
                if (is_nobody and not has_place) or time.monotonic() - lost_at_s > LEASE_S:
                    raise
                await asyncio.sleep(min(max(RETRY_S, refusal.retry_after_s or 0.0), LONGEST_RETRY_S))

"""`Steering`: a page's keys to *control*, and again when nobody took them for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys
from services import telemetry
from services.app import until_one_ends
from services.credentials import Metadata
from services.errors import PeerUnavailable, ServiceError, ServiceStopping, StoreUnavailable
from services.relay import refusal_in

if TYPE_CHECKING:
    from livevideo.v1.control_pb2_grpc import ControlServiceAsyncStub

PASSING = (StoreUnavailable, PeerUnavailable, ServiceStopping)  # another instance may not, or a little later
RETRY_S = 1.0  # where a refusal does not say when to try again
log = telemetry.logger("web")


class Steering:
    """Holds Send open for one session, and again after an outage: the picture goes on meanwhile.

    The newest keys are then sent again, with a number of their own, since their old one may be taken. The
    world's numbers so run ahead of the page's, by one for each time; `page_seq` takes them back.
    """

    def __init__(
        self,
        control: "ControlServiceAsyncStub",
        *,
        heard: Callable[[ControlReceipt], Awaitable[None]],
        unheard: Callable[[ServiceError], Awaitable[None]],
        waiting: int,
    ) -> None:
        """`waiting`: most key sets that may wait to be sent."""
        self._control = control
        self._heard = heard
        self._unheard = unheard
        self._waiting: asyncio.Queue[ControlEvent] = asyncio.Queue(waiting)
        self._newest = ControlEvent()
        self._times_again = 0

    def press(self, seq: int, down: Keys) -> None:
        """These keys are down from now on. Raises asyncio.QueueFull."""
        self._waiting.put_nowait(ControlEvent(seq=seq, keys=down))

    def page_seq(self, seq: int) -> int:
        """The page's number of a control, or a lower one if newer keys were sent again in the meantime."""
        return max(0, seq - self._times_again)

    async def run(self, session_id: str, credentials: Metadata) -> None:
        """Until the session ends. Raises the refusal that ended it, unless it is one that passes."""
        self._newest = await self._waiting.get()
        while True:
            try:
                return await self._send(session_id, credentials)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_in(error)
                if not isinstance(refusal, PASSING):
                    raise
            log.warning("keys not heard", reason=refusal.reason)
            await self._unheard(refusal)
            await asyncio.sleep(refusal.retry_after_s or RETRY_S)
            self._times_again += 1
            while not self._waiting.empty():  # each holds all the keys that are down
                self._newest = self._waiting.get_nowait()

    async def _send(self, session_id: str, credentials: Metadata) -> None:
        call = self._control.Send(metadata=credentials)
        try:
            await until_one_ends(self._bring_receipts(call), self._carry_keys(call, session_id))
        finally:
            call.cancel()

    async def _bring_receipts(self, call: "grpc.aio.StreamStreamCall[ControlEvent, ControlReceipt]") -> None:
        async for receipt in call:
            receipt.seq = self.page_seq(receipt.seq)
            await self._heard(receipt)

    # Written, not yielded from a generator: a call that has failed would still take the next keys from one.
    async def _carry_keys(
        self, call: "grpc.aio.StreamStreamCall[ControlEvent, ControlReceipt]", session_id: str
    ) -> None:
        try:
            while True:
                seq = self._newest.seq + self._times_again
                await call.write(ControlEvent(session_id=session_id, seq=seq, keys=self._newest.keys))
                self._newest = await self._waiting.get()
        except asyncio.InvalidStateError:  # the call has ended, and who brings the receipts hears why
            await asyncio.Event().wait()

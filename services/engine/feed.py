"""`ControlFeed`: one session's controls from *sessions* into its mailbox, and its receipts back."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.control_pb2 import ControlReceipt, Obeyed
from livevideo.v1.session_pb2 import FollowRequest, Seat
from services import telemetry
from services.engine.mailbox import Mailbox
from services.engine.residence import Residence
from services.errors import ServiceError, SessionClosed, Superseded, UnknownSession
from services.relay import from_status

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SeatServiceAsyncStub

log = telemetry.logger("engine")

_LAST_WORD_S = 1.0
# Nothing that waiting could change: the stay is over.
_FINAL = (SessionClosed, Superseded, UnknownSession)


class ControlFeed:
    """Holds Follow open for one stay, and again when *sessions* was away: the world goes on meanwhile."""

    def __init__(
        self,
        sessions: "SeatServiceAsyncStub",
        session_id: str,
        epoch: int,
        residence: Residence,
        mailbox: Mailbox,
        retry_s: float = 0.5,
    ) -> None:
        self._sessions = sessions
        self._session_id = session_id
        self._epoch = epoch
        self._residence = residence
        self._mailbox = mailbox
        self._retry_s = retry_s
        self._receipts: deque[ControlReceipt] = deque()
        self._latents = 0
        self._changed = asyncio.Event()

    def obeyed(self, seqs: Iterable[int], frame_index: int) -> None:
        """Tell the player that from this frame on the picture follows these controls."""
        for seq in seqs:
            self._receipts.append(ControlReceipt(seq=seq, obeyed=Obeyed(frame_index=frame_index)))
        self._changed.set()

    def made(self, latents: int) -> None:
        """So many latents the session has by now; whoever pays, pays for that."""
        self._latents = latents
        self._changed.set()

    async def run(self, clock: Callable[[], float]) -> None:
        """Follow until the session is closed or another engine has claimed it; then end the stay."""
        while True:
            ended = asyncio.Event()
            call = self._sessions.Follow(self._said(ended))
            try:
                async for control in call:
                    path_s = max(0.0, time.time() - control.received_at_s)
                    self._mailbox.put(
                        control.event, received_at_s=control.received_at_s, path_s=path_s, now_s=clock()
                    )
                self._residence.end()
                return
            except grpc.aio.AioRpcError as error:
                refusal: ServiceError | None = from_status(error)
                if error.code() is grpc.StatusCode.ABORTED or isinstance(refusal, _FINAL):
                    self._residence.end(
                        refusal or Superseded(error.details() or "another engine plays this session")
                    )
                    return
                log.warning("controls lost their way", status=error.code().name)
            finally:
                # A call that has failed does not close what it was reading from.
                ended.set()
                self._changed.set()
                call.cancel()
            await asyncio.sleep(self._retry_s)

    async def settle(self) -> None:
        """The session is over. Tells once more what it has made: Follow may have ended too early for it."""
        if not self._latents:
            return
        ended = asyncio.Event()
        call = self._sessions.Follow(self._said(ended), timeout=_LAST_WORD_S)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            if not isinstance(from_status(error), _FINAL):
                log.warning("last word lost its way", status=error.code().name)
        finally:
            ended.set()
            self._changed.set()
            call.cancel()

    async def _said(self, ended: asyncio.Event) -> AsyncIterator[FollowRequest]:
        seat = Seat(session_id=self._session_id, epoch=self._epoch, after_seq=self._mailbox.newest_seq)
        yield FollowRequest(seat=seat)
        told = 0
        while not ended.is_set():
            while self._receipts:
                yield FollowRequest(obeyed=self._receipts[0])
                if ended.is_set():
                    return  # perhaps it was not heard: the next call tells it again
                self._receipts.popleft()
            if self._latents > told:
                told = self._latents
                yield FollowRequest(latents=told)
                continue
            self._changed.clear()
            await self._changed.wait()

"""How a client comes back: Watch and Send are called again where they break; nothing is lost or repeated.

It asks for the first frame that it has not seen, and sends again, under their old numbers, the controls of
which nobody has said that they are stored. Our own players do so by this file, too.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt
from livevideo.v1.frame_pb2 import Frame, FrameFormat, Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.session_pb2 import Session
from livevideo_client.access import bearer
from livevideo_client.pace import Pace
from livevideo_client.refusals import REASON_KEY, SessionEnded, refusal_of, retry_told, told

if TYPE_CHECKING:
    from livevideo.v1.control_pb2_grpc import ControlServiceAsyncStub
    from livevideo.v1.frame_pb2_grpc import FrameServiceAsyncStub

FRAMES_PER_LATENT = 4  # the first latent is frame 0 alone
LEASE_S = 30.0  # how long a seat waits for its viewer
SILENCE_S = 2.0  # whoever says nothing for so long hangs
RETRY_S, LONGEST_RETRY_S = 0.1, 1.0  # between two tries: what a refusal asks for, within these
MOST_UNHEARD = 50  # controls on their way, of which nobody has said yet what became of them
# What another instance, or a little later the same one, may not refuse.
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)


class Silence(Exception):
    """A call says nothing, although something is due."""


@dataclass
class Comebacks:
    """Whether to call again, and how often that was done. on_lost: told each time what ended a call."""

    lease_s: float = LEASE_S
    first_lease_s: float = math.inf  # the same, if it is shorter, for what has never worked
    on_lost: Callable[[str], None] = lambda why: None
    count: int = 0
    _has_worked: bool = field(default=False, init=False)
    _lost_at_s: float | None = field(default=None, init=False)

    def heard(self) -> None:
        """It works."""
        self._has_worked, self._lost_at_s = True, None

    async def again(self, error: grpc.aio.AioRpcError | Silence) -> None:
        """Returns when it is time to. Raises `error` where that cannot help, or has not for a whole lease."""
        now_s = time.monotonic()
        self.on_lost(said(error))
        is_first, self._lost_at_s = self._lost_at_s is None, self._lost_at_s or now_s
        if isinstance(error, grpc.aio.AioRpcError) and not self._is_passing(error):
            raise error
        lease_s = self.lease_s if self._has_worked else min(self.lease_s, self.first_lease_s)
        if now_s - self._lost_at_s > lease_s:
            raise error
        self.count += is_first
        if not is_first:
            asked_s = (retry_told(error) if isinstance(error, grpc.aio.AioRpcError) else None) or 0.0
            await asyncio.sleep(min(max(RETRY_S, asked_s), LONGEST_RETRY_S))

    def _is_passing(self, error: grpc.aio.AioRpcError) -> bool:
        if not self._has_worked:  # a refusal at the door is meant
            return error.code() is grpc.StatusCode.UNAVAILABLE
        # A seat that was lost may still look taken for a moment.
        return error.code() in PASSING or told(error, REASON_KEY) == "seat_taken"


class Viewer:
    """One session's frames, each once and in order, from whichever decoder answers."""

    def __init__(
        self,
        decoders: Sequence["FrameServiceAsyncStub"],
        session: Session,
        picture_format: FrameFormat.ValueType,
        *,
        waiting: int = 0,
        silence_s: float = SILENCE_S,
    ) -> None:
        """waiting: most frames shown that may wait to be told; 0: any number. silence_s: no frame for so
        long: the next decoder is tried."""
        self._decoders = decoders
        self._silence_s = silence_s
        self.watched = 0  # which of the decoders it is
        self._session = session
        self._format = picture_format
        self._waiting = waiting
        self._shown: asyncio.Queue[int | None] = asyncio.Queue(waiting)
        self._call: grpc.aio.StreamStreamCall[WatchRequest, WatchResponse] | None = None
        self._is_closed = False
        self.comebacks = Comebacks()

    def show(self, frame_index: int) -> None:
        """The player has seen this frame, which lets another one come. Raises asyncio.QueueFull."""
        self._shown.put_nowait(frame_index)

    def close(self) -> None:
        """Who follows `frames`, in whichever task, has seen the last one."""
        self._is_closed = True
        if self._call is not None:
            self._call.cancel()

    async def frames(self, from_frame: int = 0) -> AsyncGenerator[Frame, None]:
        """From one that was not seen (0: whatever comes next) until the session or this viewer is closed.

        Raises what ends it, or Silence.
        """
        next_index = from_frame
        while not self._is_closed:
            self._shown = asyncio.Queue(self._waiting)
            requests = self._say(next_index, self._shown)
            call = self._decoders[self.watched].Watch(requests, metadata=bearer(self._session.token))
            self._call = call
            try:
                # The first frame waits for an engine, which may have to be found.
                patience_s = LEASE_S / 3
                while True:
                    async with asyncio.timeout(patience_s):
                        response = await call.read()
                    if not isinstance(response, WatchResponse):  # the end of the call
                        return
                    if response.WhichOneof("said") == "frame":
                        patience_s, next_index = self._silence_s, response.frame.index + 1
                        self.comebacks.heard()
                        yield response.frame
            except TimeoutError:
                await self.comebacks.again(Silence("no frame came"))
            except grpc.aio.AioRpcError as error:
                if self._is_closed or isinstance(refusal_of(error), SessionEnded):
                    return
                await self.comebacks.again(error)
            except asyncio.CancelledError:
                if self._is_closed and not _is_cancelled():
                    return  # the call is, by `close`
                raise
            finally:
                call.cancel()
                _end(self._shown)
            self.watched = (self.watched + 1) % len(self._decoders)

    async def _say(self, from_frame: int, shown: asyncio.Queue[int | None]) -> AsyncIterator[WatchRequest]:
        start = WatchStart(
            session_id=self._session.session_id, format=self._format, from_frame_index=from_frame
        )
        yield WatchRequest(start=start)
        while (frame_index := await shown.get()) is not None:
            yield WatchRequest(shown=Shown(frame_index=frame_index))


class Sender:
    """One session's controls, each stored once and in order, through whichever *control* answers.

    After an outage there may be many: they go below the pace at which *control* sees a flood.
    """

    def __init__(
        self,
        controls: Sequence["ControlServiceAsyncStub"],
        session: Session,
        *,
        first_lease_s: float = math.inf,
    ) -> None:
        """first_lease_s: where no *control* has ever answered, it is tried for so long."""
        self._controls = controls
        self.told = 0  # which of the *control* instances it is
        self._token = bearer(session.token)
        self._unheard: dict[int, ControlEvent] = {}  # nobody has said what became of it
        self._waiting: asyncio.Queue[ControlEvent] = asyncio.Queue()  # those to be said in this call
        self._said_at_s: dict[int, float] = {}  # those that were said in this call and are unheard, by number
        self._pace = Pace(session.controls_per_s)
        # However long: who still sees frames may steer again once controls are stored again.
        self.comebacks = Comebacks(lease_s=math.inf, first_lease_s=first_lease_s)

    def send(self, event: ControlEvent) -> None:
        """Numbers must rise."""
        self._unheard[event.seq] = event
        self._waiting.put_nowait(event)

    async def receipts(self) -> AsyncGenerator[ControlReceipt, None]:
        """Without end: whoever plays stops it. Raises what ends the session, or Silence.

        *control* is called once there is something to say: it gives up a call that says nothing at first.
        """
        again: set[int] = set()  # said in an earlier call: stored perhaps, and only the receipt was lost
        while True:
            if not self._unheard:
                await self._waiting.get()
            again.update(self._said_at_s)
            self._said_at_s.clear()
            self._waiting = asyncio.Queue()
            for event in self._unheard.values():
                self._waiting.put_nowait(event)
            room = asyncio.Semaphore(MOST_UNHEARD)
            call = self._controls[self.told].Send(metadata=self._token)
            saying = asyncio.create_task(self._say(call, room))
            try:
                while True:
                    receipt = await self._read(call)
                    if receipt is None:
                        break
                    self.comebacks.heard()
                    if self._said_at_s.pop(receipt.seq, None) is not None:
                        room.release()
                    if receipt.refused.reason == "old_seq" and receipt.seq in again:
                        receipt.accepted.SetInParent()
                    self._unheard.pop(receipt.seq, None)
                    again.discard(receipt.seq)
                    yield receipt
            except grpc.aio.AioRpcError as error:
                await self.comebacks.again(error)
            except Silence as silence:
                await self.comebacks.again(silence)
            finally:
                saying.cancel()
                call.cancel()
            self.told = (self.told + 1) % len(self._controls)

    # Written, not yielded from a generator: a call that has failed would still take the next ones from one.
    async def _say(
        self, call: "grpc.aio.StreamStreamCall[ControlEvent, ControlReceipt]", room: asyncio.Semaphore
    ) -> None:
        knows_pace = False
        try:
            while True:
                event = await self._waiting.get()
                await room.acquire()
                await self._pace.turn()
                self._said_at_s[event.seq] = time.monotonic()
                await call.write(event)
                if not knows_pace:  # the second one waits for what *control* says to the first
                    self._pace.learn(dict(await call.initial_metadata()))
                    knows_pace = True
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended, and who reads its receipts hears why

    async def _read(
        self, call: "grpc.aio.StreamStreamCall[ControlEvent, ControlReceipt]"
    ) -> ControlReceipt | None:
        reading = asyncio.ensure_future(call.read())
        try:
            while not (await asyncio.wait([reading], timeout=max(RETRY_S, self._patience_s())))[0]:
                if self._patience_s() <= 0.0:
                    raise Silence("no receipt came")
            receipt = reading.result()
            return receipt if isinstance(receipt, ControlReceipt) else None
        finally:
            reading.cancel()

    def _patience_s(self) -> float:
        """How long the oldest control that was said may stay unheard."""
        for said_at_s in self._said_at_s.values():
            return said_at_s + SILENCE_S - time.monotonic()
        return SILENCE_S


def said(error: grpc.aio.AioRpcError | Silence) -> str:
    """What ended a call, in a line: its reason first."""
    if isinstance(error, Silence):
        return f"silent ({error})"
    reason = told(error, REASON_KEY) or error.code().name
    return f"{reason} ({error.code().name}: {error.details()})"


def _end(queue: "asyncio.Queue[Any]") -> None:
    """A call that has failed does not close what it was reading from."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)


def _is_cancelled() -> bool:
    """Whether somebody wants the task to end that asks."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

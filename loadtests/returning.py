"""`ReturningPlayer`: plays on through whatever happens to the services, and keeps a ledger.

What a client does to keep its session: where a call breaks or falls silent it makes it again elsewhere, asks
for the frames from the one it lacks on, and sends again, under their numbers, those controls that were not
acknowledged.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat, Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from loadtests.ledger import Ledger
from services.credentials import Metadata, bearer

# Nothing that calling again could change.
_FINAL = frozenset(
    {
        *("session_closed", "revoked", "preempted", "time_up"),
        *("unknown_session", "bad_request", "unauthenticated", "permission_denied"),
    }
)


@dataclass(frozen=True)
class Instances:
    """Where a player finds each service: any instance serves any session. host:port, several of each."""

    sessions: Sequence[str]
    controls: Sequence[str]
    decoders: Sequence[str]


@dataclass(frozen=True)
class Patience:
    """When a player makes a call again, and when it gives its session up.

    After a call that brought nothing the next one is given twice as long: who leaves too early makes engines
    build the same world up again and again.
    """

    silence_s: float = 1.5  # no frame, or no receipt for a control, for so long: try another instance
    longest_silence_s: float = 10.0
    again_s: float = 0.1
    lease_s: float = 30.0  # no frame for so long: the session is lost


class ReturningPlayer:
    """One session, from opening to closing, with keys that a seed chooses."""

    def __init__(
        self, instances: Instances, seed: int, patience: Patience | None = None, key: str = ""
    ) -> None:
        """key: the tenant's, where one is asked for."""
        self.ledger = Ledger()
        self.session = Session()
        self._instances = instances
        self._random = random.Random(seed)
        self._seed = seed
        self._key = key
        self._patience = patience or Patience()
        self._decoder = self._random.randrange(len(instances.decoders))
        self._control = self._random.randrange(len(instances.controls))
        self._outgoing: asyncio.Queue[int | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _token(self) -> Metadata:
        return bearer(self.session.token)

    @property
    def decoder(self) -> str:
        """Address of the decoder that it watches now."""
        return self._instances.decoders[self._decoder]

    @property
    def control(self) -> str:
        """Address of the *control* that it sends to now."""
        return self._instances.controls[self._control]

    async def begin(self) -> None:
        """Opens a session and begins to play. Raises AioRpcError where it is refused for `lease_s`."""
        async with AsyncExitStack() as stack:
            sessions = SessionServiceStub(await _dialled(stack, "ipv4:" + ",".join(self._instances.sessions)))
            ends_at_s = time.monotonic() + self._patience.lease_s
            while True:
                try:
                    self.session = await sessions.Open(
                        OpenRequest(seed=self._seed), timeout=5.0, metadata=bearer(self._key)
                    )
                    break
                except grpc.aio.AioRpcError:
                    if time.monotonic() > ends_at_s:
                        raise
                    await asyncio.sleep(self._patience.again_s)
        self._tasks = [asyncio.create_task(part) for part in (self._watch(), self._press(), self._send())]

    async def until_frames(self, frames: int, within_s: float) -> bool:
        """Waits until so many more have come. False where they have not, or the session was lost."""
        wanted = len(self.ledger.sights) + frames
        ends_at_s = time.monotonic() + within_s
        while len(self.ledger.sights) < wanted:
            if time.monotonic() > ends_at_s or self.ledger.ended_by:
                return False
            await asyncio.sleep(0.02)
        return True

    async def rest(self, within_s: float) -> None:
        """Presses no more keys, and waits until every control that was sent is acknowledged and obeyed."""
        self._tasks[1].cancel()
        ends_at_s = time.monotonic() + within_s
        while time.monotonic() < ends_at_s and not self.ledger.ended_by:
            if not self.ledger.unanswered and not self.ledger.lost_controls:
                return
            await asyncio.sleep(0.05)

    async def leave(self) -> None:
        """Closes the session. What cannot be told to anybody expires."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with AsyncExitStack() as stack:
            sessions = SessionServiceStub(await _dialled(stack, "ipv4:" + ",".join(self._instances.sessions)))
            try:
                await sessions.Close(
                    CloseRequest(session_id=self.session.session_id), timeout=5.0, metadata=self._token
                )
            except grpc.aio.AioRpcError as error:
                self.ledger.breaks.append((time.monotonic(), f"close: {error.code().name}"))

    async def _watch(self) -> None:
        heard_at_s = time.monotonic()
        silence_s = self._patience.silence_s
        while True:
            frames = len(self.ledger.sights)
            why = await self._watch_once(silence_s)
            silence_s = min(2 * silence_s, self._patience.longest_silence_s)
            now_s = time.monotonic()
            if len(self.ledger.sights) > frames:
                heard_at_s = self.ledger.sights[-1].at_s
                silence_s = self._patience.silence_s
            self.ledger.breaks.append((now_s, f"watch: {why}"))
            self.ledger.returns.append(self.ledger.next_index)
            if why.partition(" ")[0] in _FINAL or now_s - heard_at_s > self._patience.lease_s:
                self.ledger.ended_by = why
                return
            self._decoder = (self._decoder + 1) % len(self._instances.decoders)
            await asyncio.sleep(self._patience.again_s)

    async def _watch_once(self, first_silence_s: float) -> str:
        """One Watch call, whose first frame may take so long. Returns what ended it."""
        async with AsyncExitStack() as stack:
            stub = FrameServiceStub(await _dialled(stack, self.decoder))
            shown: asyncio.Queue[int | None] = asyncio.Queue()
            call = stub.Watch(self._shown(shown), metadata=self._token)
            stack.callback(call.cancel)
            stack.callback(shown.put_nowait, None)
            silence_s = first_silence_s
            try:
                while True:
                    async with asyncio.timeout(silence_s):
                        response = await call.read()
                    if not isinstance(response, WatchResponse):
                        return f"ended {(await call.code()).name}"
                    if response.HasField("frame"):
                        frame = response.frame
                        self.ledger.frame(frame.index, frame.control_seq, time.monotonic())
                        shown.put_nowait(frame.index)
                        silence_s = self._patience.silence_s
            except TimeoutError:
                return "silent"
            except grpc.aio.AioRpcError as error:
                return _said(error)

    async def _shown(self, shown: "asyncio.Queue[int | None]") -> AsyncIterator[WatchRequest]:
        start = WatchStart(session_id=self.session.session_id, format=FrameFormat.FRAME_FORMAT_JPEG)
        start.from_frame_index = self.ledger.next_index
        yield WatchRequest(start=start)
        while (frame_index := await shown.get()) is not None:
            yield WatchRequest(shown=Shown(frame_index=frame_index))

    async def _press(self) -> None:
        """Keys change several times a second; some are tapped, more quickly than the world ticks."""
        keys, seq = list(self.session.model.keys), 0
        while True:
            down = tuple(self._random.sample(keys, self._random.randrange(min(3, len(keys) + 1))))
            taps = (down, ()) if self._random.random() < 0.3 else (down,)
            for held in taps:
                seq += 1
                self.ledger.control(seq, held, time.monotonic())
                self._outgoing.put_nowait(seq)
                await asyncio.sleep(0.01)
            await asyncio.sleep(self._random.uniform(0.1, 0.5))

    async def _send(self) -> None:
        while True:
            why = await self._send_once()
            self.ledger.breaks.append((time.monotonic(), f"send: {why}"))
            if why.partition(" ")[0] in _FINAL:
                return
            self._control = (self._control + 1) % len(self._instances.controls)
            await asyncio.sleep(self._patience.again_s)

    async def _send_once(self) -> str:
        """One Send call. Returns what ended it."""
        async with AsyncExitStack() as stack:
            stub = ControlServiceStub(await _dialled(stack, self.control))
            outgoing: asyncio.Queue[int | None] = asyncio.Queue()
            self._outgoing = outgoing
            for seq in self.ledger.unanswered:
                outgoing.put_nowait(seq)
            call = stub.Send(self._events(outgoing), metadata=self._token)
            stack.callback(call.cancel)
            stack.callback(outgoing.put_nowait, None)
            waiting_since_s = time.monotonic()
            reading: asyncio.Task[object] | None = None
            try:
                while True:
                    reading = reading or asyncio.ensure_future(call.read())
                    done, _ = await asyncio.wait([reading], timeout=0.2)
                    now_s = time.monotonic()
                    if not self.ledger.unanswered:
                        waiting_since_s = now_s
                    if done:
                        receipt, reading = reading.result(), None
                        if not isinstance(receipt, ControlReceipt):
                            return f"ended {(await call.code()).name}"
                        self._take(receipt)
                        waiting_since_s = now_s
                    elif now_s - waiting_since_s > self._patience.silence_s:
                        return "silent"
            except grpc.aio.AioRpcError as error:
                return _said(error)
            finally:
                if reading is not None:
                    reading.cancel()

    def _take(self, receipt: ControlReceipt) -> None:
        self.ledger.receipt(
            receipt.seq,
            receipt.WhichOneof("outcome") or "",
            reason=receipt.refused.reason,
            frame_index=receipt.obeyed.frame_index,
            now_s=time.monotonic(),
        )

    async def _events(self, outgoing: "asyncio.Queue[int | None]") -> AsyncIterator[ControlEvent]:
        while (seq := await outgoing.get()) is not None:
            yield ControlEvent(
                session_id=self.session.session_id, seq=seq, keys=Keys(down=self.ledger.sent[seq])
            )


async def _dialled(stack: AsyncExitStack, address: str) -> grpc.aio.Channel:
    return await stack.enter_async_context(grpc.aio.insecure_channel(address))


def _said(error: grpc.aio.AioRpcError) -> str:
    reason = dict(error.trailing_metadata() or ()).get("reason", error.code().name)
    return f"{reason} ({error.code().name}: {error.details()})"

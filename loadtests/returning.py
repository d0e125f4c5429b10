"""`ReturningPlayer`: plays on through whatever happens to the services, and keeps a ledger."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import grpc

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import LEASE_S, Sender, Silence, Viewer, said
from loadtests.ledger import Ledger
from services.app import open_channel
from services.credentials import bearer

SILENCE_S = 1.5  # no frame for so long: another decoder is tried
AGAIN_S = 0.1


@dataclass(frozen=True)
class Instances:
    """Where a player finds each service: any instance serves any session. host:port, several of each."""

    sessions: Sequence[str]
    controls: Sequence[str]
    decoders: Sequence[str]


class ReturningPlayer:
    """One session, from opening to closing, with keys that a seed chooses."""

    def __init__(self, instances: Instances, seed: int, key: str = "") -> None:
        """key: the tenant's, where one is asked for."""
        self.ledger = Ledger()
        self.session = Session()
        self._random = random.Random(seed)
        self._seed = seed
        self._key = key
        self._decoders = self._shuffled(instances.decoders)
        self._controls = self._shuffled(instances.controls)
        self._channels = {each: open_channel(each) for each in {*self._decoders, *self._controls}}
        self._sessions_channel = open_channel("ipv4:" + ",".join(instances.sessions))
        self._sessions = SessionServiceStub(self._sessions_channel)
        self._viewer: Viewer | None = None
        self._sender: Sender | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def decoder(self) -> str:
        """Address of the decoder that it watches now."""
        return self._decoders[self._viewer.watched if self._viewer else 0]

    @property
    def control(self) -> str:
        """Address of the *control* that it sends to now."""
        return self._controls[self._sender.told if self._sender else 0]

    async def begin(self) -> None:
        """Opens a session and begins to play. Raises AioRpcError where it is refused for a whole lease."""
        ends_at_s = time.monotonic() + LEASE_S
        while True:
            try:
                request, metadata = OpenRequest(seed=self._seed), bearer(self._key)
                self.session = await self._sessions.Open(request, timeout=5.0, metadata=metadata)
                break
            except grpc.aio.AioRpcError:
                if time.monotonic() > ends_at_s:
                    raise
                await asyncio.sleep(AGAIN_S)
        stubs = [FrameServiceStub(self._channels[each]) for each in self._decoders]
        self._viewer = Viewer(stubs, self.session, FrameFormat.FRAME_FORMAT_JPEG, silence_s=SILENCE_S)
        self._viewer.comebacks.on_lost = self._watch_lost
        self._sender = Sender(
            [ControlServiceStub(self._channels[each]) for each in self._controls], self.session
        )
        self._sender.comebacks.on_lost = self._send_lost
        parts = (self._watch(self._viewer), self._press(self._sender), self._take_receipts(self._sender))
        self._tasks = [asyncio.create_task(part) for part in parts]

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
        try:
            request = CloseRequest(session_id=self.session.session_id)
            await self._sessions.Close(request, timeout=5.0, metadata=bearer(self.session.token))
        except grpc.aio.AioRpcError as error:
            self.ledger.breaks.append((time.monotonic(), f"close: {error.code().name}"))
        for channel in (*self._channels.values(), self._sessions_channel):
            await channel.close()

    async def _watch(self, viewer: Viewer) -> None:
        try:
            async with aclosing(viewer.frames()) as frames:
                async for frame in frames:
                    self.ledger.frame(frame.index, frame.control_seq, time.monotonic())
                    viewer.show(frame.index)
            self.ledger.ended_by = "session_closed"
        except (grpc.aio.AioRpcError, Silence) as error:
            self.ledger.ended_by = said(error)

    def _watch_lost(self, why: str) -> None:
        self.ledger.breaks.append((time.monotonic(), f"watch: {why}"))
        self.ledger.returns.append(self.ledger.next_index)

    def _send_lost(self, why: str) -> None:
        self.ledger.breaks.append((time.monotonic(), f"send: {why}"))

    async def _press(self, sender: Sender) -> None:
        """Keys change several times a second; some are tapped, more quickly than the world ticks."""
        keys, seq = list(self.session.model.keys), 0
        while True:
            down = tuple(self._random.sample(keys, self._random.randrange(min(3, len(keys) + 1))))
            taps = (down, ()) if self._random.random() < 0.3 else (down,)
            for held in taps:
                seq += 1
                self.ledger.control(seq, held, time.monotonic())
                sender.send(ControlEvent(session_id=self.session.session_id, seq=seq, keys=Keys(down=held)))
                await asyncio.sleep(0.01)
            await asyncio.sleep(self._random.uniform(0.1, 0.5))

    async def _take_receipts(self, sender: Sender) -> None:
        with suppress(grpc.aio.AioRpcError):  # the ledger has it already
            async with aclosing(sender.receipts()) as receipts:
                async for receipt in receipts:
                    self._take(receipt)

    def _take(self, receipt: ControlReceipt) -> None:
        self.ledger.receipt(
            receipt.seq,
            receipt.WhichOneof("outcome") or "",
            reason=receipt.refused.reason,
            frame_index=receipt.obeyed.frame_index,
            now_s=time.monotonic(),
        )

    def _shuffled(self, addresses: Sequence[str]) -> Sequence[str]:
        return self._random.sample(addresses, len(addresses))

"""Everything at once: the services of `make play` on free ports, with the shipped model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from aapt.checkpoint import Model
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8, Frame, Shown, WatchRequest, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services import together
from services.app import open_channel
from tests.aapt.players import restless
from tests.system.fleet import Fleet

DEADLINE_S = 60.0

Start = Callable[..., Awaitable[together.Addresses]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts everything with settings of the test's choice, until the test ends."""
    async with AsyncExitStack() as stack:

        async def started(**settings: object) -> together.Addresses:
            chosen = together.Settings(**{"grpc_port": 0, "web_port": 0, **settings})  # type: ignore[arg-type]
            return await stack.enter_async_context(together.running(chosen))

        yield started


@pytest.fixture(scope="session")
def model() -> Model:
    """A small one that answers every key at once."""
    return restless()


@pytest.fixture
async def fleet(model: Model) -> AsyncIterator[Fleet]:
    started = Fleet(model)
    await started.start()
    yield started
    await started.stop()


@dataclass
class Client:
    """One connection, and what a game engine would do with it."""

    channel: grpc.aio.Channel
    frames: list[Frame] = field(default_factory=list)
    receipts: list[ControlReceipt] = field(default_factory=list)
    is_showing: bool = True

    async def open(self, **wanted: object) -> Session:
        """A session; an engine that has just started is given time to announce itself."""
        stub = SessionServiceStub(self.channel)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    return await stub.Open(OpenRequest(**wanted))  # type: ignore[arg-type]
                except grpc.aio.AioRpcError as refusal:
                    if refusal.code() not in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                    ):
                        raise
                    await asyncio.sleep(0.1)

    async def watch(
        self, session: Session, picture_format: int = FRAME_FORMAT_RGB8
    ) -> AsyncGenerator[Frame, None]:
        """Frames as they come, shown as they come while `is_showing`."""
        shown: asyncio.Queue[int] = asyncio.Queue()

        async def said() -> AsyncIterator[WatchRequest]:
            start = WatchStart(session_id=session.session_id, format=picture_format)  # type: ignore[arg-type]
            yield WatchRequest(start=start)
            while True:
                yield WatchRequest(shown=Shown(frame_index=await shown.get()))

        async for response in FrameServiceStub(self.channel).Watch(said()):
            if response.WhichOneof("said") == "frame":
                self.frames.append(response.frame)
                if self.is_showing:
                    shown.put_nowait(response.frame.index)
                yield response.frame

    async def press(self, session: Session, presses: "asyncio.Queue[list[str]]") -> None:
        """Sends each set of keys that is put into `presses`, and collects the receipts."""

        async def events() -> AsyncIterator[ControlEvent]:
            seq = 0
            while True:
                down = await presses.get()
                seq += 1
                yield ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=down))

        async for receipt in ControlServiceStub(self.channel).Send(events()):
            self.receipts.append(receipt)

    def pixels(self) -> np.ndarray:
        """All frames so far, [f, 80, 128, 3]."""
        return np.stack([np.frombuffer(f.picture, np.uint8).reshape(80, 128, 3) for f in self.frames])


@pytest.fixture
async def client() -> AsyncIterator[Callable[[together.Addresses], Client]]:
    """Connects to a running world; any number of times."""
    channels: list[grpc.aio.Channel] = []

    def connected(addresses: together.Addresses) -> Client:
        channels.append(open_channel(addresses.grpc))
        return Client(channels[-1])

    yield connected
    for channel in channels:
        await channel.close()

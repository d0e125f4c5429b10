"""The client's face, before real services: frames, controls with their receipts, notices, coming back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest

import livevideo_client
from livevideo.v1.admin_pb2 import Quotas, RevokeRequest
from livevideo.v1.admin_pb2_grpc import AdminServiceStub
from livevideo.v1.frame_pb2 import Frame
from livevideo.v1.session_pb2 import Notice, Place
from livevideo_client import Client, Services, SessionEnded, World
from services import together
from services.app import open_channel
from services.bench.faults.links import Link
from tests.services.paying import added

Start = Callable[..., Awaitable[together.Addresses]]
PATIENCE_S = 60.0


@asynccontextmanager
async def playing(address: str, **wanted: object) -> AsyncIterator[World]:
    async with Client(address) as client, await client.open(**wanted) as world:  # type: ignore[arg-type]
        yield world


async def frames_until(world: World, is_last: Callable[[Frame], bool]) -> list[Frame]:
    seen: list[Frame] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(world.frames()) as frames:
        async for frame in frames:
            seen.append(frame)
            if is_last(frame):
                break
    return seen


async def steer_until_refused(world: World) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await world.hold("up").accepted()


async def test_a_control_is_accepted_and_obeyed_by_the_frame_that_its_receipt_names(start: Start) -> None:
    addresses = await start()
    async with playing(addresses.grpc, picture_format="rgb8", seed=3) as world:
        up = world.hold("up")
        seen = await frames_until(world, lambda frame: frame.index >= 12)
        await up.accepted()
        first = await up.obeyed()
        assert [frame.index for frame in seen] == [*range(len(seen))]
        assert next(frame.index for frame in seen if frame.control_seq >= up.seq) == first
        assert all(len(frame.picture) == 128 * 80 * 3 for frame in seen)
        left = world.hold("up", "left")
        again = await frames_until(world, lambda frame: frame.control_seq >= left.seq)
        assert again[0].index > seen[-1].index, "who looked away sees nothing twice"
        assert all(later.index > earlier.index for earlier, later in pairwise(again))
        assert await left.obeyed() == again[-1].index


async def test_pictures_come_in_the_format_that_was_asked_for(start: Start) -> None:
    addresses = await start()
    for picture_format, begins in (("jpeg", b"\xff\xd8"), ("h264", b"\0\0\0\1")):
        async with playing(addresses.grpc, picture_format=picture_format) as world:
            (first,) = await frames_until(world, lambda frame: True)
            assert first.is_key
            assert first.picture.startswith(begins)


async def test_who_is_cut_off_comes_back_and_misses_nothing(start: Start) -> None:
    addresses = await start()
    link = Link(addresses.grpc)
    await link.open()
    services = Services(addresses.grpc, link.address, link.address)
    async with Client(services) as client, await client.open() as world:
        controls = [world.hold("up")]

        def strike(frame: Frame) -> bool:
            if frame.index in (8, 24):
                controls.append(world.hold("up", "left"))
                link.drop()
                controls.append(world.hold("up"))
            return frame.index >= 36

        seen = await frames_until(world, strike)
        assert [frame.index for frame in seen] == [*range(len(seen))]
        assert world.comebacks >= 2
        async with asyncio.timeout(PATIENCE_S):
            obeyed_from = [await control.obeyed() for control in controls]
        assert obeyed_from == sorted(obeyed_from)
    await link.close()


async def test_a_session_that_was_left_is_joined_by_another_program(start: Start) -> None:
    addresses = await start()
    async with Client(addresses.grpc) as client, await client.open() as world:
        first = world.hold("up")
        seen = await frames_until(world, lambda frame: frame.index >= 12)
        session = world.session
        async with Client(addresses.grpc) as other:
            joined = await other.join(
                session.session_id, from_frame=seen[-1].index + 1, picture_format="rgb8"
            )
            async with joined:
                left = joined.hold("left")
                assert left.seq == first.seq + 1
                again = await frames_until(joined, lambda frame: frame.control_seq >= left.seq)
                assert again[0].index == seen[-1].index + 1
                assert await left.obeyed() == again[-1].index


async def test_who_waits_hears_its_place_and_then_plays(start: Start) -> None:
    addresses = await start(slots=1)
    places: list[Place] = []
    heard = asyncio.Event()

    def on_place(place: Place) -> None:
        places.append(place)
        heard.set()

    async with Client(addresses.grpc) as client, asyncio.timeout(PATIENCE_S):
        first = await client.open()
        waiting = asyncio.create_task(client.wait(on_place))
        await heard.wait()
        await first.close()
        async with await waiting as world:
            assert await frames_until(world, lambda frame: True)
    assert places[0].position == 1


async def test_who_plays_is_told_in_time_that_its_time_is_up_and_why_it_was_ended(start: Start) -> None:
    addresses = await start(admin_port=0)
    notices: list[Notice] = []
    async with open_channel(addresses.admin) as channel:
        admin = AdminServiceStub(channel)
        tenant = await added(admin, "acme", Quotas(session_s=1))
        async with (
            Client(addresses.grpc, key=tenant.key) as client,
            await client.open(on_notice=notices.append) as world,
        ):
            await frames_until(world, lambda frame: world.notice is not None)
            assert [notice.reason for notice in notices] == ["time_up"]
            await admin.Revoke(RevokeRequest(name="acme"))
            with pytest.raises(SessionEnded, match="ended") as ending:
                await frames_until(world, lambda frame: False)
            assert ending.value.reason == "revoked"
            with pytest.raises(SessionEnded):
                await steer_until_refused(world)


def test_a_plain_loop_plays_without_asyncio(start_in_thread: str) -> None:
    with livevideo_client.play(start_in_thread, picture_format="rgb8") as world:
        assert list(world.model.keys) == ["left", "right", "up", "down"]
        up = world.hold("up")
        world.accepted(up)
        for frame in world:
            if frame.control_seq >= up.seq:
                break
        assert world.obeyed(up) == frame.index
        assert len(frame.picture) == 128 * 80 * 3
        with pytest.raises(ValueError, match="no key 'fly'"):
            world.hold("fly")
        kept = iter(world)
        next(kept)
    with pytest.raises(RuntimeError, match="has ended"):
        world.hold("up")
    with pytest.raises(RuntimeError, match="has ended"):
        next(kept)
    with (
        pytest.raises(livevideo_client.Unavailable, match="nobody answers"),
        livevideo_client.play("127.0.0.1:1"),
    ):
        pass


@pytest.fixture
def start_in_thread() -> Iterator[str]:
    """A world that runs beside a test which blocks; its address."""
    ready: Future[str] = Future()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        try:
            async with together.running(together.Settings(grpc_port=0, web_port=0)) as addresses:
                ready.set_result(addresses.grpc)
                await over.wait()
        except Exception as error:
            ready.set_exception(error)
            raise

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    yield ready.result(PATIENCE_S)
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()

"""A player's world, through every service."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from livevideo.v1.frame_pb2 import FRAME_FORMAT_H264
from services import play
from services.errors import BadCheckpoint, PortTaken

if TYPE_CHECKING:
    from tests.system.conftest import Client

Start = Callable[..., Awaitable[play.Addresses]]
Connect = Callable[[play.Addresses], "Client"]
SEED = 11
SERVICES = ("SessionService", "ControlService", "FrameService", "EngineService")


async def played(player: "Client", frames: int, keys: list[str], press_at: int) -> None:
    """Play a session of its own for so many frames, with `keys` held from frame `press_at` on."""
    session = await player.open(seed=SEED)
    presses: asyncio.Queue[list[str]] = asyncio.Queue()
    pressing = asyncio.create_task(player.press(session, presses))
    async with asyncio.timeout(60), aclosing(player.watch(session)) as watching:
        async for frame in watching:
            if frame.index == press_at and keys:
                presses.put_nowait(keys)
            if frame.index == frames:
                break
    pressing.cancel()
    await asyncio.gather(pressing, return_exceptions=True)


async def test_key_press_shows_in_a_frame(start: Start, client: Connect) -> None:
    addresses = await start()
    idle, driver = client(addresses), client(addresses)
    await played(idle, 64, [], 0)
    await played(driver, 64, ["up", "left"], 20)
    outcomes = {receipt.WhichOneof("outcome"): receipt for receipt in driver.receipts}
    assert outcomes.keys() == {"accepted", "obeyed"}
    obeyed = outcomes["obeyed"].obeyed.frame_index
    assert [frame.index for frame in driver.frames] == list(range(65))
    assert next(frame.index for frame in driver.frames if frame.control_seq == 1) == obeyed
    assert 20 < obeyed < 60
    difference = np.abs(idle.pixels().astype(int) - driver.pixels()).mean((1, 2, 3))
    # The same seed dreams the same world until a key is obeyed, and another one from that frame on.
    assert difference[:obeyed].max() < 0.01
    assert difference[obeyed:].max() > 0.5


async def test_a_second_viewer_is_refused_and_the_first_goes_on(start: Start, client: Connect) -> None:
    addresses = await start()
    first, second = client(addresses), client(addresses)
    session = await first.open()
    async with asyncio.timeout(60), aclosing(first.watch(session)) as watching:
        async for frame in watching:
            if frame.index == 8:
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await anext(second.watch(session))
                assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            if frame.index == 40:
                break
    assert [frame.index for frame in first.frames] == list(range(41))


async def test_a_viewer_that_shows_nothing_loses_its_seat_and_costs_no_one_a_frame(
    start: Start, client: Connect
) -> None:
    addresses = await start(slots=2)
    silent, playing, waiting = client(addresses), client(addresses), client(addresses)
    silent.is_showing = False

    async def be_silent() -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as ending:
            async for _ in silent.watch(await silent.open()):
                pass
        return ending.value.code()

    async def play_on() -> None:
        async with aclosing(playing.watch(await playing.open())) as watching:
            async for frame in watching:
                if frame.index == 120:
                    return

    async with asyncio.timeout(60):
        code, _ = await asyncio.gather(be_silent(), play_on())
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(silent.frames) <= 13  # no more than may be in flight
        assert [frame.index for frame in playing.frames] == list(range(121))
        assert (await anext(waiting.watch(await waiting.open()))).index == 0


async def test_the_slot_of_a_client_that_vanished_can_be_had_again(start: Start, client: Connect) -> None:
    addresses = await start(slots=1)
    gone, next_one = client(addresses), client(addresses)
    async with asyncio.timeout(60):
        async for frame in gone.watch(await gone.open()):
            if frame.index == 12:
                break
        await gone.channel.close()
        assert (await anext(next_one.watch(await next_one.open()))).index == 0


@pytest.mark.parametrize(
    ("wanted", "code", "told"),
    [
        ({"model": "tetris"}, grpc.StatusCode.NOT_FOUND, "tetris"),
        ({"image": b"not a picture"}, grpc.StatusCode.INVALID_ARGUMENT, "image"),
        ({"prompt": "a" * 1_000_000}, grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
    ],
)
async def test_a_session_that_cannot_be_is_refused_with_the_field(
    start: Start, client: Connect, wanted: dict[str, object], code: grpc.StatusCode, told: str
) -> None:
    player = client(await start())
    await player.open()  # the engine is known
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.open(**wanted)
    assert refusal.value.code() == code
    assert told in (refusal.value.details() or "")


async def test_an_unknown_session_and_an_unknown_format_are_refused(start: Start, client: Connect) -> None:
    player = client(await start())
    session = await player.open()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await anext(player.watch(session, 99))
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await anext(player.watch(session, FRAME_FORMAT_H264))).is_key
    session.session_id = "nobody"
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await anext(player.watch(session))
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


async def test_every_service_says_that_it_is_healthy_and_what_it_offers(
    start: Start, client: Connect
) -> None:
    channel = client(await start()).channel
    health = health_pb2_grpc.HealthStub(channel)
    for service in SERVICES:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=f"livevideo.v1.{service}"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def asked() -> object:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    async for answer in reflection.ServerReflectionInfo(asked()):
        named = {service.name for service in answer.list_services_response.service}
        assert {f"livevideo.v1.{service}" for service in SERVICES} <= named
        break


async def test_a_second_play_on_taken_ports_says_which_and_what_to_do(start: Start) -> None:
    addresses = await start()
    grpc_port, web_port = (int(a.rpartition(":")[2]) for a in (addresses.grpc, addresses.page))
    with pytest.raises(PortTaken, match=f"{grpc_port}.*choose another port"):
        await start(grpc_port=grpc_port)
    with pytest.raises(PortTaken, match=f"{web_port}.*choose another port"):
        await start(web_port=web_port)


async def test_a_checkpoint_that_is_none_is_named(start: Start, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"has no model\.json"):
        await start(checkpoint=tmp_path)


@pytest.mark.slow
async def test_the_check_plays_and_reports(tmp_path: Path) -> None:
    report = await play.check(play.Settings(grpc_port=0, web_port=0), 4)
    assert report["index_gaps"] == 0
    assert report["frames"] > 24
    assert report["controls_accepted"] == report["controls_sent"]
    assert {"fps", "late_ratio", "control_to_frame_p95_s", "step_p50_s", "decode_p50_s"} <= report.keys()

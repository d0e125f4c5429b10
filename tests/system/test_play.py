"""A player's world, through every service."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from livevideo.v1.frame_pb2 import FRAME_FORMAT_H264
from services import play, together
from services.decoder.service import DecoderService
from services.errors import BadCheckpoint, BadSetting, PortTaken, ServiceError
from services.sessions.embedded import EmbeddedValkey
from services.web.service import WebService

if TYPE_CHECKING:
    from tests.system.conftest import Client

Start = Callable[..., Awaitable[together.Addresses]]
Connect = Callable[[together.Addresses], "Client"]
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
                coming = asyncio.ensure_future(anext(second.watch(session)))
            if frame.index >= 40 and coming.done():
                break
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await coming
    assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert [frame.index for frame in first.frames] == list(range(len(first.frames)))


async def test_a_viewer_that_shows_nothing_loses_its_seat_and_costs_no_one_a_frame(
    start: Start, client: Connect
) -> None:
    addresses = await start(slots=2, lease_s=1.0)
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
    addresses = await start(slots=1, lease_s=1.0)
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
        internal = {"livevideo.v1.EngineService", "livevideo.v1.SeatService"}
        assert {f"livevideo.v1.{service}" for service in SERVICES} - internal <= named
        assert not internal & named  # nobody but our own services can call them
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


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        *(("--frames-per-second", value, "from 4 to 120") for value in ("-24", "0", "nan", "1e9", "fast")),
        *(("--slots", value, "from 1 to 64") for value in ("0", "-1", "5000", "2.5")),
        *(("--grpc-port", value, "from 0 to 65535") for value in ("-1", "99999")),
        ("--web-port", "99999", "from 0 to 65535"),
        ("--metrics-port", "-1", "from 0 to 65535"),
        *(("--check", value, "from 1 to 3600") for value in ("-1", "0", "inf")),
        ("--redis-url", "foo", "redis://"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["play", option, value])
    with pytest.raises(SystemExit) as ending:
        play.main()
    assert ending.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert option in said
    assert told in said


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1", "a" * 300])
async def test_a_host_that_is_no_address_of_this_machine_is_named(start: Start, host: str) -> None:
    with pytest.raises(BadSetting, match=f"--host {host} is no address.*127.0.0.1"):
        await start(host=host)


async def test_a_world_can_listen_on_an_address_of_ipv6(start: Start, client: Connect) -> None:
    try:
        addresses = await start(host="::1")
    except BadSetting:
        pytest.skip("this machine has no IPv6")
    assert (await client(addresses).open()).model.name == "road"
    async with aiohttp.ClientSession() as browser, browser.get(addresses.page) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1:1", "do not serve.*--redis-url.*127.0.0.1:1"),
        ("redis://127.0.0.1:port", "REDIS_URL has '127.0.0.1:port'"),
    ],
)
async def test_a_redis_that_cannot_be_used_is_named_at_once(start: Start, url: str, told: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ServiceError, match=told):
            await start(redis_url=url)


async def test_a_server_that_is_no_redis_is_told_from_one(start: Start) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServiceError, match="--redis-url"):
            await start(redis_url=f"redis://127.0.0.1:{port}")


async def test_an_engine_that_does_not_announce_itself_is_not_waited_for_without_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "READY_S", 0.5)
    with pytest.raises(ServiceError, match=r"did not announce itself within 0\.5 s"):
        await start(frames_per_second=float("nan"))


@pytest.mark.parametrize("lame", [DecoderService, WebService])
async def test_a_start_that_fails_halfway_stops_what_it_had_started_though_a_signal_comes_meanwhile(
    lame: type[DecoderService | WebService], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[EmbeddedValkey] = []
    stop = EmbeddedValkey.stop

    async def fail(service: object) -> None:
        raise RuntimeError("no thread is left")

    async def signalled(valkey: EmbeddedValkey) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        await stop(valkey)
        stores.append(valkey)

    monkeypatch.setattr(lame, "start", fail)
    monkeypatch.setattr(EmbeddedValkey, "stop", signalled)
    with pytest.raises(RuntimeError, match="no thread is left"):
        await play.play(together.Settings(grpc_port=0, web_port=0), opens_browser=False)
    assert len(stores) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_start_that_is_under_way(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    async def signal_and_say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        os.kill(os.getpid(), number)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(signal_and_say_nothing, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(10):
            await play.play(together.Settings(grpc_port=0, web_port=0, redis_url=url), opens_browser=False)
    assert "awake" not in capsys.readouterr().out


@pytest.mark.slow
async def test_the_check_plays_and_reports(tmp_path: Path) -> None:
    report = await play.check(together.Settings(grpc_port=0, web_port=0), 4)
    assert report["index_gaps"] == 0
    assert report["frames"] > 24
    assert report["controls_accepted"] == report["controls_sent"]
    assert {"fps", "late_ratio", "control_to_frame_p95_s", "step_p50_s", "decode_p50_s"} <= report.keys()

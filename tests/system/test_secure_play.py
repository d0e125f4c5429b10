"""A whole world behind TLS: its page, its gRPC port, and what goes on inside."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import grpc
import pytest

from livevideo.v1.session_pb2 import ListModelsRequest
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services import together
from services.app import open_channel
from services.tls import Tls
from tests.services.certificates import Authority
from tests.system.conftest import DEADLINE_S, Client

Start = Callable[..., Awaitable[together.Addresses]]


@pytest.fixture
async def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def world(start: Start, ours: Authority) -> together.Addresses:
    return await start(tls=ours.tls("play", callers="play"))


@pytest.fixture
async def player(world: together.Addresses, ours: Authority) -> AsyncIterator[Client]:
    async with open_channel(world.grpc, Tls(tls_ca_file=ours.file)) as channel:
        yield Client(channel)


async def test_a_player_plays_on_while_the_certificate_is_exchanged(
    player: Client, world: together.Addresses, ours: Authority
) -> None:
    session = await player.open()
    presses: asyncio.Queue[list[str]] = asyncio.Queue()
    pressing = asyncio.create_task(player.press(session, presses))
    presses.put_nowait(["up"])
    async with asyncio.timeout(DEADLINE_S):
        async for frame in player.watch(session):
            if frame.index == 24:
                ours.issue("play")
                presses.put_nowait([])
            if frame.index >= 72:
                break
    assert [frame.index for frame in player.frames] == [*range(len(player.frames))]
    assert sum(receipt.HasField("accepted") for receipt in player.receipts) == 2
    pressing.cancel()
    async with open_channel(world.grpc, Tls(tls_ca_file=ours.file)) as newcomer:
        assert (await SessionServiceStub(newcomer).ListModels(ListModelsRequest())).models


async def test_the_page_is_https_and_nothing_is_plain(
    world: together.Addresses, player: Client, ours: Authority
) -> None:
    assert world.page.startswith("https://")
    believing = ssl.create_default_context(cafile=ours.file)
    async with aiohttp.ClientSession() as browser:
        async with browser.get(world.page, ssl=believing) as answer:
            assert answer.status == 200
        async with browser.ws_connect(world.page + "/play", ssl=believing) as page:
            await page.send_json({"type": "start", "format": "jpeg"})
            assert (await page.receive_json(timeout=DEADLINE_S))["type"] == "world"
        with pytest.raises(aiohttp.ClientError):
            await browser.get(world.page.replace("https", "http"))
    async with open_channel(world.grpc) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SessionServiceStub(plain).ListModels(ListModelsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

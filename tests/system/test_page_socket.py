"""What a page may say, and what it hears when it says something else. Real services, no browser."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from redis.asyncio import Redis

from services import together
from services.sessions.embedded import EmbeddedValkey
from services.web import player

Start = Callable[..., Awaitable[together.Addresses]]

START = json.dumps({"type": "start", "format": "jpeg"})
NOT_STARTS = {
    "no JSON": "start",
    "not an object": "[]",
    "too deep": "[" * 10_000,
    "a number too long to read": "9" * 5000,
    "another type": '{"type": "keys"}',
    "an unknown format": '{"type": "start", "format": "gif"}',
    "a format that is no text": '{"type": "start", "format": ["jpeg"]}',
}
NOT_MESSAGES = {
    "no number": '{"type": "keys", "down": []}',
    "a negative number": '{"type": "keys", "seq": -1, "down": []}',
    "a huge number": '{"type": "keys", "seq": 99999999999999999999, "down": []}',
    "a number too long to read": '{"type": "keys", "seq": ' + "9" * 5000 + ', "down": []}',
    "a number that is none": '{"type": "keys", "seq": true, "down": []}',
    "keys that are no names": '{"type": "keys", "seq": 1, "down": [1]}',
    "keys that are no list": '{"type": "keys", "seq": 1, "down": "up"}',
    "half a character": '{"type": "keys", "seq": 1, "down": ["\\ud800"]}',
    "a frame before the first": '{"type": "shown", "index": -1}',
    "a frame that is no number": '{"type": "shown", "index": true}',
}


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def refusal(socket: aiohttp.ClientWebSocketResponse) -> dict[str, object]:
    async with asyncio.timeout(30):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == "refused":
                return dict(json.loads(message.data))
    raise AssertionError("the page was closed without a word")


async def shown(socket: aiohttp.ClientWebSocketResponse, first: int, frames: int) -> int:
    """Show so many frames as they come, each in its turn; the index that is next."""
    due = first
    async with asyncio.timeout(60):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                index = int.from_bytes(message.data[4:8], "little")
                assert index == due, "a frame was lost or repeated"
                await socket.send_json({"type": "shown", "index": index})
                due += 1
                if due == first + frames:
                    break
    return due


async def test_a_page_that_says_nonsense_is_told_so_and_disturbs_no_one(
    start: Start, browser: aiohttp.ClientSession
) -> None:
    address = (await start(slots=2)).page + "/play"
    async with browser.ws_connect(address) as player:
        await player.send_str(START)
        playing = asyncio.create_task(shown(player, 0, 72))
        for name, text in NOT_STARTS.items():
            async with browser.ws_connect(address) as page:
                await page.send_str(text)
                said = await refusal(page)
                assert (said["reason"], bool(said["message"])) == ("bad_request", True), name
        for name, text in NOT_MESSAGES.items():
            async with browser.ws_connect(address) as page:
                await page.send_str(START)
                await page.send_str(text)
                said = await refusal(page)
                assert said["reason"] == "bad_request", (name, said)
        assert await playing == 72


async def test_a_key_that_the_world_does_not_have_is_refused_by_its_receipt(
    start: Start, browser: aiohttp.ClientSession
) -> None:
    async with browser.ws_connect((await start()).page + "/play") as page:
        await page.send_str(START)
        await page.send_json({"type": "keys", "seq": 1, "down": ["jump"]})
        async with asyncio.timeout(30):
            async for message in page:
                if message.type == aiohttp.WSMsgType.TEXT:
                    said = json.loads(message.data)
                    if said["type"] == "receipt":
                        break
        assert said["outcome"] == "refused"
        assert "jump" in said["message"]


async def test_a_page_from_elsewhere_cannot_play(start: Start, browser: aiohttp.ClientSession) -> None:
    page = (await start()).page
    for origin in ("http://elsewhere.example", "null", page + "0"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.ws_connect(page + "/play", origin=origin)
        assert refused.value.status == 403
    async with browser.ws_connect(page + "/play", origin=page) as ours:
        await ours.send_str(START)
        assert await shown(ours, 0, 4) == 4


@pytest.mark.parametrize("flood", ['{"type": "shown", "index": 0}', '{"type": "keys", "seq": 1, "down": []}'])
async def test_a_page_that_floods_is_told_and_ended(
    start: Start, browser: aiohttp.ClientSession, flood: str
) -> None:
    async with browser.ws_connect((await start()).page + "/play") as page:
        await page.send_str(START)
        assert await shown(page, 0, 4) == 4
        for _ in range(8 * player.WAITING):
            await page.send_str(flood)
        said = await refusal(page)
    assert (said["reason"], "send fewer" in str(said["message"])) == ("bad_request", True)


async def test_a_failure_that_nobody_foresaw_is_told_as_internal(
    start: Start, browser: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player, "_world", lambda *_: 1 / 0)
    async with browser.ws_connect((await start()).page + "/play") as page:
        await page.send_str(START)
        assert (await refusal(page))["reason"] == "internal"


async def test_the_picture_goes_on_while_the_store_does_not_answer_and_the_newest_keys_come_through_after(
    start: Start, browser: aiohttp.ClientSession
) -> None:
    valkey = EmbeddedValkey()
    redis = Redis.from_url(await valkey.start())
    told: list[str] = []
    obeyed: list[tuple[int, int]] = []  # index of a frame, and the control that it obeys
    try:
        async with browser.ws_connect((await start(redis_url=valkey.url)).page + "/play") as page:
            await page.send_str(START)
            await page.send_json({"type": "keys", "seq": 1, "down": ["up"]})
            async with asyncio.timeout(60):
                async for message in page:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        said = json.loads(message.data)
                        told.append(f"{said['type']} {said.get('seq', '')} {said.get('outcome', '')}".strip())
                        if told[-1] == "receipt 1 obeyed":
                            await redis.client_pause(2500)
                            await page.send_json({"type": "keys", "seq": 2, "down": ["left"]})
                        if told[-1] == "unheard" and told.count("unheard") == 1:
                            await page.send_json({"type": "keys", "seq": 3, "down": []})
                            await page.send_json({"type": "keys", "seq": 4, "down": ["right"]})
                    if message.type == aiohttp.WSMsgType.BINARY:
                        index, seq = (int.from_bytes(message.data[i : i + 4], "little") for i in (4, 8))
                        obeyed.append((index, seq))
                        await page.send_json({"type": "shown", "index": index})
                        if seq == 4:
                            break
    finally:
        await redis.aclose()
        await valkey.stop()
    assert "unheard" in told
    assert told.index("receipt 4 accepted") > told.index("unheard")
    assert [index for index, _ in obeyed] == list(range(len(obeyed)))

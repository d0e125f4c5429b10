"""What a page may say, and what it hears when it says something else. Real services, no browser."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from services import play

Start = Callable[..., Awaitable[play.Addresses]]

START = json.dumps({"type": "start", "format": "jpeg"})
NOT_STARTS = {
    "no JSON": "start",
    "not an object": "[]",
    "too deep": "[" * 10_000,
    "another type": '{"type": "keys"}',
    "an unknown format": '{"type": "start", "format": "gif"}',
    "a format that is no text": '{"type": "start", "format": ["jpeg"]}',
}
NOT_MESSAGES = {
    "no number": '{"type": "keys", "down": []}',
    "a negative number": '{"type": "keys", "seq": -1, "down": []}',
    "a huge number": '{"type": "keys", "seq": 99999999999999999999, "down": []}',
    "keys that are no list": '{"type": "keys", "seq": 1, "down": "up"}',
    "half a character": '{"type": "keys", "seq": 1, "down": ["\\ud800"]}',
    "a frame before the first": '{"type": "shown", "index": -1}',
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

"""A person at the page, in a real browser."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from services import together
from services.sessions.embedded import EmbeddedValkey

playwright_api = pytest.importorskip("playwright.async_api", reason="the browser extra is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
PATIENCE_MS = 60_000
PIXELS = """() => [...document.getElementById("screen").getContext("2d")
    .getImageData(0, 0, 128, 80).data]"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = await (await browser.new_context()).new_page()
        opened.set_default_timeout(PATIENCE_MS)
        yield opened
        await browser.close()


def change(before: list[int], after: list[int]) -> float:
    return sum(abs(a - b) for a, b in zip(before, after, strict=True)) / len(before)


@pytest.mark.parametrize("query", ["", "?jpeg"])
async def test_a_key_lights_up_when_the_world_obeys_and_the_picture_moves(
    start: Callable[..., Awaitable[together.Addresses]], page: Any, query: str
) -> None:
    addresses = await start()
    await page.goto(addresses.page + "/" + query)
    await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 10")
    before = await page.evaluate(PIXELS)
    await page.keyboard.down("ArrowUp")
    await page.wait_for_selector('[data-key="up"].held.obeyed')
    await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 70")
    assert change(before, await page.evaluate(PIXELS)) > 0.5
    assert (await page.inner_text("#latency")).endswith("ms")
    await page.keyboard.up("ArrowUp")
    await page.wait_for_selector('[data-key="up"]:not(.held)')
    assert not await page.is_visible("#notice")


async def test_a_page_that_finds_no_seat_says_so_and_waits_for_its_turn(
    start: Callable[..., Awaitable[together.Addresses]], page: Any
) -> None:
    addresses = await start(slots=1)
    await page.goto(addresses.page)
    await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 10")
    other = await page.context.new_page()
    await other.goto(addresses.page)
    await other.wait_for_selector("#told:not([hidden])")
    assert await other.inner_text("#told") == "Every seat is taken. You are number 1 in the queue."
    await page.close()
    await other.wait_for_function("parseInt(document.getElementById('count').textContent) > 0")


async def test_two_quick_clicks_begin_one_world(
    start: Callable[..., Awaitable[together.Addresses]], page: Any
) -> None:
    addresses = await start(slots=1)
    await page.goto(addresses.page)
    await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 10")
    begun: list[Any] = []
    page.on("websocket", lambda socket: begun.append(socket))
    await page.evaluate(
        "document.getElementById('restart').click(); document.getElementById('restart').click()"
    )
    await page.wait_for_timeout(2000)
    assert len(begun) == 1


async def test_a_jpeg_that_cannot_be_read_is_told_and_does_not_stop_those_behind_it(
    start: Callable[..., Awaitable[together.Addresses]], page: Any
) -> None:
    await page.goto((await start()).page)
    assert await page.evaluate(
        """async () => {
            const { pictureDecoder } = await import("/page/decoders.js");
            const canvas = new OffscreenCanvas(8, 8);
            canvas.getContext("2d");
            const blob = await canvas.convertToBlob({ type: "image/jpeg" });
            const whole = new Uint8Array(await blob.arrayBuffer());
            const seen = [];
            const [show, fail] = [(_, about) => seen.push(about.index), () => seen.push("failed")];
            const decoder = pictureDecoder("jpeg", show, fail);
            decoder.decode(new Uint8Array([1, 2, 3]), { index: 0 });
            decoder.decode(whole, { index: 1 });
            await decoder.last;
            return seen;
        }"""
    ) == ["failed", 1]


async def test_a_page_whose_keys_nobody_takes_says_so_and_goes_on(
    start: Callable[..., Awaitable[together.Addresses]], page: Any
) -> None:
    valkey = EmbeddedValkey()
    redis = Redis.from_url(await valkey.start())
    try:
        await page.goto((await start(redis_url=valkey.url)).page)
        await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 10")
        await redis.client_pause(2500)
        await page.keyboard.down("ArrowUp")
        await page.wait_for_selector("#unheard:not([hidden])")
        await page.wait_for_selector('[data-key="up"].held.obeyed')
        assert not await page.is_visible("#unheard")
        assert not await page.is_visible("#notice")
    finally:
        await redis.aclose()
        await valkey.stop()

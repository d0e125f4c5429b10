"""A person at the page, in a real browser."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from services import play

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
    start: Callable[..., Awaitable[play.Addresses]], page: Any, query: str
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


async def test_a_page_that_finds_no_seat_says_so_and_offers_to_try_again(
    start: Callable[..., Awaitable[play.Addresses]], page: Any
) -> None:
    addresses = await start(slots=1)
    await page.goto(addresses.page)
    await page.wait_for_function("parseInt(document.getElementById('count').textContent) > 10")
    other = await page.context.new_page()
    await other.goto(addresses.page)
    await other.wait_for_selector("#notice:not([hidden])")
    assert "seat is taken" in await other.inner_text("#reason")
    await page.close()
    await other.wait_for_timeout(500)
    await other.click("#again")
    await other.wait_for_function("parseInt(document.getElementById('count').textContent) > 0")

"""A real Prometheus reads a real run: every panel has something to show, and no alert fires for nothing."""

import asyncio
import json
import math
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.metrics import MetricWrapperBase

from services import telemetry, together
from services.engine import gpus
from services.monitoring import rules
from services.monitoring.boards import BOARDS
from tests.monitoring.test_boards import INTERVALS

if TYPE_CHECKING:
    from tests.system.conftest import Client

PROMETHEUS = shutil.which("prometheus")
# What no run here does by itself: there are no GPUs, and nothing is refused, skipped or dropped.
RARE = (
    *(metric for metric in vars(gpus).values() if isinstance(metric, MetricWrapperBase)),
    telemetry.CONTROLS_REFUSED,
    telemetry.LATENTS_SKIPPED,
    telemetry.LOGS_DROPPED,
    telemetry.SESSIONS_ENDED,
)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@asynccontextmanager
async def prometheus(folder: Path, metrics_port: int) -> AsyncIterator[str]:
    """Scrapes and evaluates the rules once a second; the address of its API."""
    assert PROMETHEUS is not None
    document = rules.document()
    for group in document["groups"]:
        group["interval"] = "1s"
    scraped = {"job_name": "livevideo", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
    read = {"global": {"scrape_interval": "1s"}, "rule_files": ["rules.yaml"], "scrape_configs": [scraped]}
    (folder / "rules.yaml").write_text(json.dumps(document))
    (folder / "prometheus.yaml").write_text(json.dumps(read))
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/series",
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}/api/v1/query"
    finally:
        process.terminate()
        await process.wait()


async def played(player: "Client", frames: int) -> None:
    session, presses = await player.open(), asyncio.Queue[list[str]]()
    pressing = asyncio.create_task(player.press(session, presses))
    async with asyncio.timeout(60), aclosing(player.watch(session)) as watching:
        async for frame in watching:
            if frame.index % 12 == 0:
                presses.put_nowait(["up"] if frame.index % 24 else [])
            if frame.index == frames:
                break
    pressing.cancel()
    await asyncio.gather(pressing, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not there; apt-get install prometheus")
async def test_every_panel_of_a_real_run_has_something_to_show(
    start: Callable[..., Awaitable[together.Addresses]],
    client: Callable[[together.Addresses], "Client"],
    tmp_path: Path,
) -> None:
    metrics_port = free_port()
    addresses = await start(metrics_port=metrics_port)
    for metric in RARE:
        metric.labels(*("made-up" for _ in metric._labelnames))
    async with prometheus(tmp_path, metrics_port) as api, aiohttp.ClientSession() as web:
        for _ in range(2):
            await played(client(addresses), 120)
            await asyncio.sleep(2.5)

        async def values(expression: str) -> list[float]:
            async with web.get(api, params={"query": expression}) as answer:
                said: dict[str, Any] = await answer.json()
            assert said["status"] == "success", said
            return [float(each["value"][1]) for each in said["data"]["result"]]

        empty = []
        for board in BOARDS:
            for panel in board.panels:
                for query in panel.queries:
                    expression = query.expr
                    for variable, value in {**INTERVALS, "$__rate_interval": "30s"}.items():
                        expression = expression.replace(variable, value)
                    if not await values(expression):
                        empty.append(f"{board.name}: {panel.title}: {expression}")
        assert empty == []
        finite = 'slo:events:increase5m{slo="frame_on_time",model="road"}'
        assert any(value > 100 and math.isfinite(value) for value in await values(finite))
        assert await values('increase(frames_total{timing="held_up"}[30s]) > 0') == []
        for slo in ("control_to_frame", "first_frame", "session_success", "playout_continuity"):
            assert any(value > 0 for value in await values(f'slo:events:increase5m{{slo="{slo}"}}')), slo
        assert await values('ALERTS{alertname=~"SessionsFail.*"}') == []

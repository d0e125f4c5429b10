"""A real Prometheus reads a real run: every panel has something to show, and no alert fires for nothing."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.metrics import MetricWrapperBase

from services import telemetry, together
from services.bench.boards import prometheus
from services.engine import gpus
from services.monitoring.boards import BOARDS
from services.monitoring.panels import filled
from tests.services.servers import free_port

if TYPE_CHECKING:
    from tests.system.conftest import Client

# What no run here does by itself: there are no GPUs, and nothing is refused, skipped or dropped.
RARE = (
    *(metric for metric in vars(gpus).values() if isinstance(metric, MetricWrapperBase)),
    telemetry.CONTROLS_REFUSED,
    telemetry.LATENTS_SKIPPED,
    telemetry.LOGS_DROPPED,
    telemetry.SESSIONS_ENDED,
    telemetry.SPANS_DROPPED,
)


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
@pytest.mark.skipif(prometheus.PROGRAM is None, reason="prometheus is not there; apt-get install prometheus")
async def test_every_panel_of_a_real_run_has_something_to_show(
    start: Callable[..., Awaitable[together.Addresses]],
    client: Callable[[together.Addresses], "Client"],
    tmp_path: Path,
) -> None:
    metrics_port = free_port()
    addresses = await start(metrics_port=metrics_port)
    for metric in RARE:
        metric.labels(*("made-up" for _ in metric._labelnames))
    target = f"127.0.0.1:{metrics_port}"
    async with prometheus.running(tmp_path, [target]) as asked:
        for _ in range(2):
            await played(client(addresses), 120)
            await asyncio.sleep(2.5)

        async def values(expression: str) -> list[float]:
            return [series.points[0][1] for series in await asked.now(expression)]

        empty = []
        for board in BOARDS:
            for panel in board.panels:
                for query in panel.queries:
                    if not await values(expression := filled(query.expr, "30s")):
                        empty.append(f"{board.name}: {panel.title}: {expression}")
        assert empty == []
        finite = 'slo:events:increase5m{slo="frame_on_time",model="road"}'
        assert any(value > 100 and math.isfinite(value) for value in await values(finite))
        assert await values('increase(frames_total{timing="held_up"}[30s]) > 0') == []
        for slo in ("control_to_frame", "first_frame", "session_success", "playout_continuity"):
            assert any(value > 0 for value in await values(f'slo:events:increase5m{{slo="{slo}"}}')), slo
        assert await values('ALERTS{alertname=~"SessionsFail.*"}') == []

"""A Prometheus for a while: it scrapes what runs on this machine, evaluates our rules, and answers PromQL."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from services.bench.faults.processes import free_port
from services.monitoring import rules

PROGRAM = shutil.which("prometheus")
_READY_S = 30.0


@dataclass(frozen=True)
class Series:
    """What answers a query: labels, and (seconds since 1970, value)."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class Prometheus:
    """One that runs."""

    def __init__(self, web: aiohttp.ClientSession, address: str) -> None:
        self._web = web
        self._address = address

    async def now(self, expression: str) -> list[Series]:
        """The newest values. Raises ValueError for what is no PromQL."""
        found = await self._asked("query", {"query": expression})
        return [Series(each["metric"], [_point(each["value"])]) for each in found]

    async def course(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Values between two times since 1970. Raises ValueError for what is no PromQL."""
        asked = {"query": expression, "start": f"{start_s}", "end": f"{end_s}", "step": f"{step_s}"}
        found = await self._asked("query_range", asked)
        return [Series(each["metric"], [*map(_point, each["values"])]) for each in found]

    async def until_ready(self) -> None:
        async with asyncio.timeout(_READY_S):
            while True:
                try:
                    async with self._web.get(f"{self._address}/-/ready") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.05)

    async def _asked(self, what: str, asked: Mapping[str, str]) -> list[Any]:
        async with self._web.get(f"{self._address}/api/v1/{what}", params=asked) as answer:
            said: dict[str, Any] = await answer.json()
        if said["status"] != "success":
            raise ValueError(f"Prometheus does not answer {asked['query']}: {said.get('error')}")
        result: list[Any] = said["data"]["result"]
        return result


@asynccontextmanager
async def running(
    folder: Path, targets: Sequence[str], *, scrape_every_s: int = 1, rules_every_s: int = 1
) -> AsyncIterator[Prometheus]:
    """Scrapes `targets`, host:port each, for as long as the block lasts; keeps everything in `folder`."""
    assert PROGRAM is not None, "prometheus is not there; apt-get install prometheus"
    document = rules.document()
    for group in document["groups"]:
        group["interval"] = f"{rules_every_s}s"
    scraped = {"job_name": "livevideo", "static_configs": [{"targets": [*targets]}]}
    every = {"scrape_interval": f"{scrape_every_s}s"}
    read = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": [scraped]}
    (folder / "rules.yaml").write_text(json.dumps(document))
    (folder / "prometheus.yaml").write_text(json.dumps(read))
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/series",
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as web:
            started = Prometheus(web, f"http://{address}")
            await started.until_ready()
            yield started
    finally:
        process.terminate()
        await process.wait()


def _point(said: Sequence[Any]) -> tuple[float, float]:
    return float(said[0]), float(said[1])

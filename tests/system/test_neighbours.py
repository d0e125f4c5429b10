"""A quiet tenant beside one that takes ten times its quota."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

DEADLINE_S = 300.0


@pytest.mark.slow
async def test_who_takes_ten_times_its_quota_gets_its_quota_and_its_neighbour_every_frame(
    tmp_path: Path,
) -> None:
    pytest.importorskip("services.sessions.command", reason="no tenants can be added")
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.bench.neighbours", "--tenants", "--seconds", "4", "--turns", "1"),
        *("--logs", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(bench.communicate(), DEADLINE_S)
    measured = json.loads(said.decode().splitlines()[-1])
    assert measured["gaps"] == 0
    assert all(frames > 0 for frames in measured["frames"])
    within, flooded = measured["loud"]
    assert "refused: quota_exceeded" not in within
    assert flooded.get("opened", 0) <= 2
    assert flooded["refused: quota_exceeded"] > 0

"""The fault bench, short: twenty kills. The README has the long run."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

KEPT = ("lost_sessions", "gaps", "duplicates", "lost_controls", "unproved")
DEADLINE_S = 900.0


@pytest.mark.slow
async def test_nobody_loses_a_session_a_frame_or_a_control_by_twenty_kills(tmp_path: Path) -> None:
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.bench.faults", "--kills", "20", "--runs", "0"),
        *("--logs", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(bench.communicate(), DEADLINE_S)
    totals = json.loads(said.decode().splitlines()[-1])
    assert totals["kills"] >= 20
    assert {name: totals[name] for name in KEPT} == dict.fromkeys(KEPT, 0), complained.decode()[-4000:]
    assert bench.returncode == 0, complained.decode()[-4000:]

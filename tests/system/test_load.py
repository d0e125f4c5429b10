"""`make load`, short: what is counted, not how fast it was."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 300.0


async def load(*options: str) -> tuple[int, dict[str, Any], str]:
    """Its exit code, the last line of what it said, and its complaints."""
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.bench.load", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(bench.communicate(), DEADLINE_S)
    lines = said.decode().splitlines()
    assert bench.returncode is not None
    return bench.returncode, json.loads(lines[-1]) if lines else {}, complained.decode()[-4000:]


@pytest.mark.slow
async def test_sessions_of_the_null_model_play_through_every_service(tmp_path: Path) -> None:
    _, numbers, complained = await load("--sessions", "4", "--seconds", "5", "--logs", str(tmp_path))
    assert (numbers["sessions"], numbers["broken"], numbers["index_gaps"]) == (4, {}, 0), complained
    assert numbers["frames"] > 4 * 24, complained
    assert numbers["controls"] > 4, complained
    assert {"engine", "decoder", "control", "sessions", "valkey", "players"} == numbers["cores"].keys()
    assert numbers["metrics"]["size_bytes"] > 100_000


@pytest.mark.slow
async def test_visitors_come_and_go_and_what_was_promised_to_them_is_counted(tmp_path: Path) -> None:
    who = ("--arrivals-per-s", "3", "--stay-median-s", "1", "--slow", "0.2", "--vanishing", "0.2")
    _, numbers, complained = await load(
        "--visitors", "--null", "--seconds", "6", "--logs", str(tmp_path), "--", *who
    )
    assert numbers["visits"] > 6, complained
    assert numbers["kept"]["session_success"] == 1.0, complained
    assert numbers["kept"].keys() >= {"frame_on_time", "first_frame", "control_to_frame"}, complained


async def test_locust_says_so_where_there_is_nobody() -> None:
    locust = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"),
        *("--sessions", "127.0.0.1:1", "--loglevel", "ERROR"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(locust.communicate(), DEADLINE_S)
    assert locust.returncode == 1
    assert b"cannot begin" in said
    assert b"Traceback" not in said

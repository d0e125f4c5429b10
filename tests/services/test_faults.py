"""What the fault bench itself does: cutting, choosing scenarios, and adding up."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from services.bench.faults import report
from services.bench.faults.__main__ import turns
from services.bench.faults.links import Link
from services.bench.faults.scenarios import SCENARIOS, named
from services.bench.faults.stage import Outcome

DEADLINE_S = 20.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(100):
        writer.write(piece)
    writer.close()


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """To a server that says what it is told."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    link = Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await link.open()
    yield link
    await link.close()
    server.close()


async def _dialled(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = link.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def test_what_is_sent_during_a_cut_arrives_when_it_is_mended(link: Link) -> None:
    reader, writer = await _dialled(link)
    writer.write(b"one")
    assert await asyncio.wait_for(reader.read(100), DEADLINE_S) == b"one"
    link.cut()
    writer.write(b"two")
    answer = asyncio.ensure_future(reader.read(100))
    assert not (await asyncio.wait([answer], timeout=0.2))[0]
    link.mend()
    assert await asyncio.wait_for(answer, DEADLINE_S) == b"two"
    writer.close()


async def test_who_connects_during_a_cut_is_answered_when_it_is_mended(link: Link) -> None:
    link.cut()
    reader, writer = await _dialled(link)
    writer.write(b"hello")
    answer = asyncio.ensure_future(reader.read(100))
    assert not (await asyncio.wait([answer], timeout=0.2))[0]
    link.mend()
    assert await asyncio.wait_for(answer, DEADLINE_S) == b"hello"
    writer.close()


async def test_the_end_of_one_side_is_told_to_the_other(link: Link) -> None:
    reader, writer = await _dialled(link)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(100), DEADLINE_S) == b""
    writer.close()


def test_every_scenario_has_its_turns_and_then_those_that_kill_until_enough_were() -> None:
    chosen = [*turns([*SCENARIOS], kills=40, runs=1)]
    assert chosen[: len(SCENARIOS)] == [*SCENARIOS]
    assert all(each.kills for each in chosen[len(SCENARIOS) :])
    assert 40 <= sum(each.kills for each in chosen) < 40 + max(each.kills for each in SCENARIOS)


def test_a_scenario_is_found_by_a_part_of_its_name_and_one_that_is_not_there_is_refused() -> None:
    assert {each.name for each in named(["cut"])} == {each.name for each in SCENARIOS if "cut" in each.name}
    with pytest.raises(ValueError, match="there are: engine, SIGKILL"):
        named(["meteor"])


def test_the_report_adds_up_what_the_runs_came_to() -> None:
    outcomes = [
        Outcome("engine, SIGKILL", seed, 2, kills=1, gaps=seed, pause_s=seed / 10) for seed in range(1, 11)
    ]
    totals = report.summary(outcomes)
    assert (totals["kills"], totals["gaps"], totals["resume_p50_s"]) == (10, 55, 0.6)
    assert json.loads(json.dumps(totals)) == totals
    assert "| engine, SIGKILL | 10 | 0 | 55, 0 | 0 |" in report.table(outcomes)
    assert not outcomes[0].is_kept

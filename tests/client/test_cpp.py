"""examples/cpp, built with Debian's gRPC, plays on real services."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from services import together
from services.bench.faults.links import Link
from tests.client.programs import cpp_player, missing_for_cpp, run

Start = Callable[..., Awaitable[together.Addresses]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_cpp()), reason=f"not installed: {missing_for_cpp()}"),
]


async def test_a_program_in_cpp_plays_is_cut_off_comes_back_and_leaves(start: Start) -> None:
    play = await asyncio.to_thread(cpp_player)
    addresses = await start()
    link = Link(addresses.grpc)
    await link.open()

    def strike(line: str) -> None:
        if line.startswith("control 1: obeyed"):
            link.drop()

    ended = await run(*play, "--at", link.address, "--seconds", "4", on_line=strike)
    await link.close()
    assert ended.code == 0, ended
    sights = re.search(r"(\d+) frames, (\d+) gaps, (\d+) comebacks, brightness ([\d.]+)", ended.out)
    assert sights, ended
    frames, gaps, comebacks = (int(each) for each in sights.groups()[:3])
    assert frames > 24
    assert gaps == 0
    assert comebacks >= 1, ended.out
    assert 20 < float(sights[4]) < 235
    for seq in (1, 2, 3):
        assert f"control {seq}: accepted" in ended.out
        assert re.search(rf"control {seq}: obeyed from frame \d+ on", ended.out)
    assert "refused" not in ended.out

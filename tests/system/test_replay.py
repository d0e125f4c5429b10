"""A session that was played through gRPC, played again from its log."""

import asyncio
import json
import sys
from pathlib import Path

import av

from loadtests.returning import Instances, ReturningPlayer
from tests.system.conftest import DEADLINE_S, Start


async def _said(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.replay", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode or 0, said.decode(), complained.decode()


async def test_a_session_is_played_again_to_the_bit_and_exported(start: Start, tmp_path: Path) -> None:
    addresses = await start()
    address = addresses.grpc
    player = ReturningPlayer(Instances([address], [address], [address]), seed=3)
    await player.begin()
    assert await player.until_frames(60, DEADLINE_S)
    await player.rest(DEADLINE_S)
    await player.leave()
    await asyncio.sleep(1.5)  # until the log is complete
    film = tmp_path / "replay.mp4"
    session_id = player.session.session_id
    status, said, _ = await _said(session_id, "--sessions", addresses.internal, "--out", str(film), "--json")
    assert status == 0
    again = json.loads(said)
    assert (again["epochs"], again["difference"]) == (1, None)
    latents_seen = len(player.ledger.sights) // 4
    assert again["latents"] >= latents_seen
    with av.open(str(film)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 4 * (again["latents"] - 1) + 1
    status, _, complained = await _said("road-" + 32 * "0", "--sessions", addresses.internal)
    assert (status, "is not known" in complained) == (2, True)

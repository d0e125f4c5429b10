"""The engine as a deployment on Ray Serve: what `make play RAY=1` runs, and what it does when a rank dies."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aapt.checkpoint import save, untrained
from aapt.presets import DEBUG
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services import together

if TYPE_CHECKING:
    from tests.system.conftest import Client

pytest.importorskip("ray")

Start = Callable[..., Awaitable[together.Addresses]]
Connect = Callable[[together.Addresses], "Client"]
BACK_S = 60.0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(untrained(DEBUG), tmp_path / "debug", {})
    return tmp_path / "debug"


class Playing:
    """A session that is played until it is told to stop, and when its frames came."""

    def __init__(self, player: "Client", session: Session) -> None:
        self.player = player
        self.session = session
        self.came_at_s: list[float] = []
        self._task = asyncio.create_task(self._play())

    async def _play(self) -> None:
        async with aclosing(self.player.watch(self.session)) as watching:
            async for _ in watching:
                self.came_at_s.append(time.monotonic())

    async def plays(self, frames: int, within_s: float = BACK_S) -> None:
        """Wait for so many frames more. Raises what ended the session."""
        wanted = len(self.came_at_s) + frames
        async with asyncio.timeout(within_s):
            while len(self.came_at_s) < wanted:
                if self._task.done():
                    await self._task
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop, and check that every frame came once and in order."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        indices = [frame.index for frame in self.player.frames]
        assert indices == list(range(len(indices)))
        await SessionServiceStub(self.player.channel).Close(CloseRequest(session_id=self.session.session_id))

    async def epoch(self) -> int:
        found = await SessionServiceStub(self.player.channel).Get(
            GetRequest(session_id=self.session.session_id)
        )
        return found.epoch

    def longest_gap_s(self) -> float:
        return max(b - a for a, b in zip(self.came_at_s, self.came_at_s[1:], strict=False))


def rank_processes() -> set[int]:
    """Ray's processes that are ranks from 1 on, among those that this process has started."""
    parents, found = dict[int, int](), set[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        if command.startswith(b"ray::_Rank"):
            found.add(int(folder.name))

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return {process for process in found if is_ours(process)}


async def replaced(struck: int) -> None:
    """Wait until a rank is gone, and there are two gangs again."""
    began_s = time.monotonic()
    async with asyncio.timeout(BACK_S):
        while struck in rank_processes() or len(rank_processes()) < 2:  # noqa: ASYNC110 (other processes)
            await asyncio.sleep(0.1)
    print(f"gang back after {time.monotonic() - began_s:.1f} s more")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
async def test_a_gang_whose_rank_was_killed_or_hangs_is_replaced_and_the_other_replica_plays_on(
    start: Start, client: Connect, checkpoint: Path
) -> None:
    addresses = await start(checkpoint=checkpoint, replicas=2, shards=2)
    sessions: dict[str, Playing] = {}
    async with asyncio.timeout(BACK_S):
        while len(sessions) < 2:  # the second replica may come later
            player = client(addresses)
            session = await player.open()
            if session.replica_address in sessions:
                await asyncio.sleep(0.5)
            else:
                sessions[session.replica_address] = Playing(player, session)
    for playing in sessions.values():
        await playing.plays(24)
    before = rank_processes()
    assert len(before) == 2
    struck = min(before)
    struck_at_s = time.monotonic()
    os.kill(struck, signal.SIGKILL)
    for playing in sessions.values():
        await playing.plays(72)  # wherever they are: the struck one goes on with the other replica
    await replaced(struck)
    epochs = {await playing.epoch(): playing for playing in sessions.values()}
    assert sorted(epochs) == [1, 2]  # one session moved, the other one was never interrupted
    print({epoch: f"{playing.longest_gap_s():.2f} s" for epoch, playing in epochs.items()})
    player = client(addresses)
    async with asyncio.timeout(BACK_S):
        while (session := await player.open()).replica_address in sessions:
            await SessionServiceStub(player.channel).Close(CloseRequest(session_id=session.session_id))
            await asyncio.sleep(0.2)
    print(f"seats again after {time.monotonic() - struck_at_s:.1f} s")
    new = Playing(player, session)
    await new.plays(24)
    (hangs,) = rank_processes() - before
    os.kill(hangs, signal.SIGSTOP)
    for playing in (*sessions.values(), new):
        await playing.plays(72)
    assert await new.epoch() == 2
    assert sorted([await playing.epoch() for playing in sessions.values()]) == [1, 2]
    await replaced(hangs)
    for playing in (*sessions.values(), new):
        await playing.stop()

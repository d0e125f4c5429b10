"""How long a player waits when something dies or hangs: `python -m services.bench.resume --times 20`.

The services run as processes of their own: two each of *sessions*, *control*, engines and decoders. A
player plays; what plays for it is struck by SIGKILL, SIGSTOP or SIGTERM, and the longest gap between two of
its frames is taken. A member that was struck is started again before the next strike.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import Sender, Viewer
from loadtests.report import percentile
from services.app import open_channel
from services.bench.faults.fleet import Fleet, Size, running
from services.bench.faults.processes import Process

CHECKPOINT = Path("checkpoints/road")
SETTLE_S = 5.0  # an engine that has just started is announced, too
WITHIN_S = 30.0
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}


@dataclass
class Outcome:
    """What strikes of one kind did to a player."""

    struck: str
    by: str
    pauses_s: list[float] = field(default_factory=list)
    gaps: int = 0
    duplicates: int = 0
    lost_controls: int = 0
    lost_sessions: int = 0

    def row(self) -> str:
        """One line of a table."""
        pauses = f"{percentile(self.pauses_s, 0.5):.2f} | {percentile(self.pauses_s, 0.95):.2f}"
        counts = f"{self.gaps} | {self.duplicates} | {self.lost_controls} | {self.lost_sessions}"
        return f"| {self.struck} | {self.by} | {len(self.pauses_s)} | {pauses} | {counts} |"


class Playing:
    """A session that is played: a control every 50 ms, every frame looked at once."""

    def __init__(self, session: Session, viewer: Viewer, sender: Sender) -> None:
        self.session = session
        self._viewer = viewer
        self._sender = sender
        self._next_index = 0
        self.came_at_s: list[float] = []
        self.gaps = 0
        self.duplicates = 0
        self.sent = 0
        self.accepted: set[int] = set()
        self.refused: list[str] = []
        self.obeyed_seq = 0
        self.stale: list[int] = []  # frames that obey less than one before them
        self.tasks = [asyncio.create_task(part()) for part in (self._watch, self._press, self._hear)]

    async def frames(self, count: int) -> None:
        """Wait for so many more. Raises what ended the session."""
        wanted = len(self.came_at_s) + count
        async with asyncio.timeout(WITHIN_S):
            while len(self.came_at_s) < wanted:
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def longest_gap_s(self, since_s: float) -> float:
        came = [at_s for at_s in self.came_at_s if at_s >= since_s - 0.5]
        return max((b - a for a, b in pairwise(came)), default=WITHIN_S)

    async def _watch(self) -> None:
        async with aclosing(self._viewer.frames()) as frames:
            async for frame in frames:
                self.came_at_s.append(time.monotonic())
                self.gaps += max(0, frame.index - self._next_index)
                self.duplicates += frame.index < self._next_index
                self._next_index = frame.index + 1
                if frame.control_seq < self.obeyed_seq:
                    self.stale.append(frame.index)
                self.obeyed_seq = max(self.obeyed_seq, frame.control_seq)
                self._viewer.show(frame.index)

    async def _press(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.sent += 1
            down = [("left",), ("up",), ("right", "up"), ()][self.sent % 4]
            self._sender.send(
                ControlEvent(session_id=self.session.session_id, seq=self.sent, keys=Keys(down=down))
            )

    async def _hear(self) -> None:
        async with aclosing(self._sender.receipts()) as receipts:
            async for receipt in receipts:
                if receipt.HasField("accepted"):
                    self.accepted.add(receipt.seq)
                elif receipt.HasField("refused"):
                    self.refused.append(f"{receipt.seq}: {receipt.refused.message}")


class Strikes:
    """A player in a fleet, and what is struck under it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._channels = {each.address: open_channel(each.address) for each in fleet.processes.values()}
        # The first of them is struck, so the last is asked.
        self._sessions = SessionServiceStub(self._channels[fleet.addresses("sessions")[-1]])

    async def play(self, first_decoder: int) -> Playing:
        session = await self._sessions.Open(OpenRequest(), wait_for_ready=True)
        decoders = [FrameServiceStub(self._channels[a]) for a in self._fleet.addresses("decoder")]
        controls = [ControlServiceStub(self._channels[a]) for a in self._fleet.addresses("control")]
        order = decoders[first_decoder:] + decoders[:first_decoder]
        viewer = Viewer(order, session, FrameFormat.FRAME_FORMAT_JPEG)
        return Playing(session, viewer, Sender(controls, session))

    async def strike(self, struck: str, by: str, outcome: Outcome, chance: random.Random) -> None:
        """Play, strike, play on, and heal."""
        playing = await self.play(first_decoder=0)
        try:
            await playing.frames(24 + chance.randrange(96))
            await asyncio.sleep(chance.random() * 0.5)
            victims = [await self._victim(playing, kind) for kind in struck.split("+")]
            struck_at_s = time.monotonic()
            for victim in victims:
                victim.send(SIGNALS[by])
            try:
                await playing.frames(96)
            except Exception as error:
                outcome.lost_sessions += 1
                print(f"lost: {type(error).__name__} {error}", file=sys.stderr)
            outcome.pauses_s.append(round(playing.longest_gap_s(struck_at_s), 3))
            await asyncio.sleep(0.5)
            outcome.gaps += playing.gaps
            outcome.duplicates += playing.duplicates
            outcome.lost_controls += sum(
                seq > playing.obeyed_seq for seq in playing.accepted if seq < playing.sent - 40
            ) + len(playing.stale)
            if playing.refused:
                print(f"refused: {playing.refused}", file=sys.stderr)
        finally:
            await playing.stop()
        await self._sessions.Close(CloseRequest(session_id=playing.session.session_id))
        for victim in victims:
            if by == "stop":
                victim.send(signal.SIGCONT)
            else:
                await victim.stop()
        await self._fleet.mended()
        await asyncio.sleep(SETTLE_S)

    async def _victim(self, playing: Playing, kind: str) -> Process:
        name = f"{kind}-1"
        if kind == "engine":
            name = await self._fleet.engine_of(playing.session.session_id)
        return self._fleet.processes[name]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


async def measure(
    kinds: list[tuple[str, str]], times: int, seed: int, logs: Path | None, told: Callable[[str], None]
) -> list[Outcome]:
    """So many strikes of each kind: who is struck, and by what."""
    outcomes, chance = list[Outcome](), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        folder = logs or Path(temporary)
        async with running(folder, CHECKPOINT, Size(2, 2, 2, 2)) as fleet:
            strikes = Strikes(fleet)
            for struck, by in kinds:
                outcome = Outcome(struck, by)
                for _ in range(times):
                    await strikes.strike(struck, by, outcome, chance)
                outcomes.append(outcome)
                told(outcome.row())
            await strikes.close()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench.resume", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="strikes of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        nargs="*",
        default=["engine:kill", "engine:stop", "engine:term", "decoder:kill", "decoder:stop", "decoder:term",
                 "engine+decoder:kill"],
        help="who and by what, e.g. engine+decoder:kill",
    )  # fmt: skip
    parser.add_argument("--logs", type=Path, help="a folder where the services' logs stay")
    options = parser.parse_args()
    kinds = [(kind.partition(":")[0], kind.partition(":")[2]) for kind in options.kinds]
    print("| struck | by | times | pause p50, s | p95 | gaps | duplicates | lost controls | lost sessions |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    outcomes = asyncio.run(
        measure(kinds, options.times, options.seed, options.logs, lambda row: print(row, flush=True))
    )
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main()

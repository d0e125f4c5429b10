"""`standing`: the services that are put under load, one process each, and what they take of the processor."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.player import Addresses
from services.bench.faults import fleet

ONE_EACH = fleet.Size(sessions=1, controls=1, engines=1, decoders=1)
# More slots than there is time for: who is seated is decided by what was measured.
SLOTS = {"road": 24, "null": 256}
NULL = {"engine": "loadtests.null.engine", "decoder": "loadtests.null.decoder"}
# Steps of the null model cost nothing, so its sessions need not share them. The frames of seven groups are
# due at seven moments that lie evenly within a frame period, since 7 has no factor in common with 4.
NULL_PHASES = 7
# A session of the null model holds a hundred latents of 8 kB in the one process, and less in the other.
NULL_SESSION_BYTES = 2 << 20
# Who dialled a service before it was there dials again within a second. Until then players would be refused.
SETTLED_S = 2.0


@dataclass
class Standing:
    """Services that run, and where players find them."""

    fleet: fleet.Fleet
    addresses: Addresses
    _cpu_s: Mapping[str, float]
    _since_s: float

    def begin(self) -> None:
        """From now on `cores` counts."""
        self._cpu_s = {name: process.cpu_s() for name, process in self.fleet.processes.items()}
        self._since_s = time.monotonic()

    def cores(self) -> dict[str, float]:
        """What each process has taken since `begin`, in cores; by the kind of service."""
        passed_s = time.monotonic() - self._since_s
        return {
            process.kind: round((process.cpu_s() - self._cpu_s.get(name, 0.0)) / passed_s, 3)
            for name, process in self.fleet.processes.items()
        }


@asynccontextmanager
async def standing(model: str, checkpoint: Path, logs: Path, phases: int = 0) -> AsyncIterator[Standing]:
    """For as long as the block lasts, ready for players. model: `road`, which is `checkpoint`, or `null`.

    phases: of the engine; 0: its own default, and NULL_PHASES for the null model.
    """
    engine = {"SLOTS": str(SLOTS[model])}
    decoder: dict[str, str] = {}
    if model == "null":
        phases = phases or NULL_PHASES
        engine |= {"SESSION_BYTES": str(NULL_SESSION_BYTES)}
        decoder |= {"SESSION_BYTES": str(NULL_SESSION_BYTES)}
    if phases:
        engine |= {"PHASES": str(phases)}
    async with fleet.running(
        logs,
        checkpoint,
        ONE_EACH,
        {"engine": engine, "decoder": decoder},
        modules=NULL if model == "null" else {},
        has_links=False,
    ) as started:
        sessions, control, frames = (
            started.addresses(kind)[0] for kind in ("sessions", "control", "decoder")
        )
        await asyncio.sleep(SETTLED_S)
        now = Standing(started, Addresses(sessions, control, frames), {}, time.monotonic())
        now.begin()
        yield now

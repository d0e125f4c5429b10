"""What writing sessions down costs a tick: `python -m services.bench.writing`.

The shipped model plays four sessions whose keys change now and then, with and without the log.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from aapt.bench.results import RESULTS, keep, machine, table
from aapt.shapes import FRAMES_PER_LATENT
from services.engine.model import load
from services.engine.recorded import RecordedWorld
from services.engine.world import World, on_one_device

SESSIONS = 4
PROMISED = 0.01


@dataclass(frozen=True)
class Writing:
    """For one latent, medians: the world's thread, the event loop, and what is sent. period_s: of a tick."""

    step_s: float
    noted_s: float
    taken_s: float
    size_bytes: float
    period_s: float

    @property
    def share(self) -> float:
        """Of a tick, for all sessions together."""
        return SESSIONS * (self.noted_s + self.taken_s) / self.period_s

    def rows(self) -> list[tuple[str, str, str]]:
        """What, what was aimed at, what was measured."""
        spent = f"{1e6 * (self.noted_s + self.taken_s):.0f} us, {self.size_bytes:.0f} bytes"
        return [
            ("the log, for a latent", "", spent),
            (f"share of a tick, {SESSIONS} sessions", "< 1 %", f"{100 * self.share:.2f} %"),
        ]


class _Timed:
    """Says how long the last step of a world took."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.took_s = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._world, name)

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        start_s = time.perf_counter()
        latents = self._world.step(controls)
        self.took_s = time.perf_counter() - start_s
        return latents


def measure(checkpoint: Path, steps: int) -> Writing:
    """`steps` steps of four sessions."""
    model = load(checkpoint)
    timed = _Timed(on_one_device(model, SESSIONS))
    world = RecordedWorld(timed, "a bench")  # type: ignore[arg-type]
    for slot in range(SESSIONS):
        world.open(slot, None, "", slot + 1)
        world.name(slot, f"session-{slot}", "default", 1)
    noted_s, steps_s = [], []
    for step in range(steps):
        down = [float(step // 3 % (key + 2) == 0) for key in range(len(model.preset.keys))]
        controls = torch.tensor([down] * FRAMES_PER_LATENT)
        start_s = time.perf_counter()
        world.step(dict.fromkeys(range(SESSIONS), controls))
        noted_s.append(time.perf_counter() - start_s - timed.took_s)
        steps_s.append(timed.took_s)
    start_s = time.perf_counter()
    entries = [entry.SerializeToString() for entry in world.take()]
    taken_s = time.perf_counter() - start_s
    latents = steps * SESSIONS
    return Writing(
        statistics.median(steps_s),
        statistics.median(noted_s) / SESSIONS,
        taken_s / latents,
        sum(map(len, entries)) / latents,
        FRAMES_PER_LATENT / model.preset.frames_per_second,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench.writing", description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    writing = measure(options.checkpoint, options.steps)
    keep("writing", asdict(writing), options.out)
    print(table(f"{machine()}, writing sessions down", writing.rows()))


if __name__ == "__main__":
    main()

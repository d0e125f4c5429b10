"""`Step`: so many players on services that were started for them, and whether they had what was promised."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.measured import Measured
from loadtests.player import Script
from loadtests.probe import ARRIVE_EVERY_S, measure
from services.bench.load.standing import Standing
from services.monitoring.slos import CONTROL_WITHIN_S, FIRST_FRAME_WITHIN_S, SLOS

FORMATS = {"road": "jpeg", "null": "rgb8"}
OBJECTIVES = {slo.name: slo.objective for slo in SLOS}


@dataclass(frozen=True)
class Step:
    """cores: what each kind of service took, and the players."""

    measured: Measured
    cores: dict[str, float]

    @property
    def broken(self) -> list[str]:
        """What was promised and not kept, in words; empty: the step is held."""
        seen, within_ms = self.measured, 1000 * CONTROL_WITHIN_S
        said = {
            f"{seen.players - seen.sessions} were refused": seen.sessions < seen.players,
            f"{sum(seen.broken.values())} sessions broke": bool(seen.broken),
            f"{100 * seen.deadline_hit:.2f} % of frames in time": (
                seen.deadline_hit < OBJECTIVES["frame_on_time"]
            ),
            f"{100 * seen.controls_within:.2f} % of controls shown within {within_ms:.0f} ms": (
                seen.controls_within < OBJECTIVES["control_to_frame"]
            ),
            f"first frames after up to {seen.first_frame_p99_s:.1f} s": (
                seen.first_frame_p99_s > FIRST_FRAME_WITHIN_S
            ),
            f"{seen.index_gaps} frames skipped or repeated": bool(seen.index_gaps),
        }
        return [sentence for sentence, is_so in said.items() if is_so]

    def numbers(self) -> dict[str, Any]:
        """As they are kept."""
        return {**asdict(self.measured), "cores": self.cores, "not_kept": self.broken}


async def step(services: Standing, model: str, players: int, seconds: float, script: Script) -> Step:
    """Let so many play."""
    services.begin()
    measured = await measure(
        services.addresses,
        players,
        seconds,
        script,
        picture_format=FORMATS[model],
        within_s=CONTROL_WITHIN_S,
    )
    lasted_s = seconds + players * ARRIVE_EVERY_S
    return Step(measured, {**services.cores(), "players": round(measured.cpu_s / lasted_s, 3)})


async def staircase(
    services: Standing, model: str, sizes: Sequence[int], seconds: float, script: Script
) -> AsyncIterator[Step]:
    """One step after the other, until one is not held. That one is the last."""
    for players in sizes:
        taken = await step(services, model, players, seconds, script)
        yield taken
        if taken.broken:
            return


def held(steps: Sequence[Step]) -> int:
    """The most players of a step that was held. 0: none was."""
    return max((each.measured.players for each in steps if not each.broken), default=0)

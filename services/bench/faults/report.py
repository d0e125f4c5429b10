"""What the runs of all scenarios came to, as a table and as numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.report import percentile
from services.bench.faults.scenarios import SCENARIOS
from services.bench.faults.stage import Outcome

_SUMMED = (
    "kills",
    "hangs",
    "lost_sessions",
    "gaps",
    "duplicates",
    "lost_controls",
    "unproved",
    "replayed_latents",
)


@dataclass(frozen=True)
class Row:
    """All runs of one scenario."""

    scenario: str
    promised_s: float
    outcomes: Sequence[Outcome]

    @property
    def longer(self) -> int:
        """Runs whose pause was longer than promised."""
        return sum(each.pause_s > self.promised_s for each in self.outcomes) if self.promised_s else 0

    def cells(self) -> list[str]:
        pauses_s = [each.pause_s for each in self.outcomes]
        waits_s = [each.acknowledged_s for each in self.outcomes]
        lost, gaps, twice, controls = (
            sum(getattr(each, name) for each in self.outcomes)
            for name in ("lost_sessions", "gaps", "duplicates", "lost_controls")
        )
        promised = f"{self.promised_s:g} s" if self.promised_s else ""
        return [
            *(self.scenario, str(len(self.outcomes)), str(lost), f"{gaps}, {twice}", str(controls)),
            *(f"{percentile(pauses_s, share):.2f} s" for share in (0.5, 0.95)),
            promised,
            f"{percentile(waits_s, 0.95):.2f} s",
        ]


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """In the order of the scenarios, those that were run."""
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.scenario, []).append(outcome)
    return [Row(each.name, each.pause_s, by_name[each.name]) for each in SCENARIOS if each.name in by_name]


def table(outcomes: Iterable[Outcome]) -> str:
    """As the README shows it."""
    named = ["struck", "runs", "sessions lost", "frames skipped, twice", "controls lost"]
    named += ["pause, median", "p95", "promised", "control acknowledged, p95 of the slowest"]
    lines = [named, ["---"] * len(named)]
    lines += [row.cells() for row in rows(outcomes)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The totals; resuming is what the pause was where an engine was killed and another one was there."""
    resumed_s = [each.pause_s for each in outcomes if each.scenario == "engine, SIGKILL"]
    totals = {name: sum(getattr(each, name) for each in outcomes) for name in _SUMMED}
    return {
        **totals,
        "resume_p50_s": percentile(resumed_s, 0.5),
        "resume_p95_s": percentile(resumed_s, 0.95),
        "runs": len(outcomes),
        "paused_longer": sum(row.longer for row in rows(outcomes)),  # than was promised
        "frames": sum(each.frames for each in outcomes),
        "controls": sum(each.controls for each in outcomes),
    }

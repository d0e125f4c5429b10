"""`Promises`: what visitors got, counted by the SLOs that the services are operated by."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from services.monitoring.slos import CONTROL_WITHIN_S, FIRST_FRAME_WITHIN_S, SLOS, Slo


def _none() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass
class Promises:
    """Counts up while visitors play. Who is told to come again was promised nothing, and counts apart."""

    bad: defaultdict[str, float] = field(default_factory=_none)  # by the SLO's name
    events: defaultdict[str, float] = field(default_factory=_none)
    refused: Counter[str] = field(default_factory=Counter)  # with a time to come again, by the reason
    visits: int = 0
    begun_late_s: float = 0.0  # the longest that a visit began after its time, for want of a turn here

    def controls(self, took_s: float) -> None:
        """A control showed, so long after its key was due to change."""
        self._count("control_to_frame", took_s > CONTROL_WITHIN_S)

    def frames(self, frames: int, late: int, played_s: float, stalled_s: float) -> None:
        """So many came; of those `late` more than a frame period after their place."""
        self._count("frame_on_time", late, frames)
        self._count("playout_continuity", stalled_s, played_s + stalled_s)

    def first_frame(self, took_s: float) -> None:
        """Since the visitor was due."""
        self._count("first_frame", took_s > FIRST_FRAME_WITHIN_S)

    def session(self, *, is_kept: bool) -> None:
        """One that opened, or should have, and has ended."""
        self._count("session_success", not is_kept)

    def broken(self) -> list[Slo]:
        """Those of which too large a share was bad. `least_bad` holds as for alerts: one unlucky frame is no
        broken promise."""
        return [
            slo
            for slo in SLOS
            if self.bad[slo.name] >= slo.least_bad and self.bad[slo.name] > slo.budget * self.events[slo.name]
        ]

    def table(self) -> str:
        """As Markdown: each promise, and what was kept of it."""
        lines = ["| promise | of | kept |", "|---|---|---|"]
        for slo in SLOS:
            events = self.events[slo.name]
            kept = f"{100 * (1 - self.bad[slo.name] / events):.3f} %" if events else "nothing to measure"
            lines.append(f"| {slo.promise} | {events:.0f} {slo.unit} | {kept} |")
        return "\n".join(lines)

    def numbers(self) -> dict[str, object]:
        """For the last line, as JSON."""
        return {
            "visits": self.visits,
            "refused": dict(self.refused),
            "kept": {
                slo.name: round(1 - self.bad[slo.name] / self.events[slo.name], 6)
                for slo in SLOS
                if self.events[slo.name]
            },
            "broken": [slo.name for slo in self.broken()],
            "begun_late_s": round(self.begun_late_s, 4),
        }

    def _count(self, name: str, bad: float, events: float = 1) -> None:
        self.bad[name] += bad
        self.events[name] += events

"""The SLOs: what players are promised, what breaks a promise, and how fast its budget may burn."""

from dataclasses import dataclass

BY = ("tenant", "model")
_SUM = f"sum by ({', '.join(BY)}) "


@dataclass(frozen=True)
class Slo:
    """A promise over 30 days.

    bad, events: PromQL of what broke the promise, and of all that was promised, within `[WINDOW]`.
    least_bad: so many of the bad in the longer window, or the alert stays silent: one unlucky frame of a
    tenant that hardly plays wakes nobody. unit: of the bad and the events.
    """

    name: str
    title: str
    promise: str
    objective: float
    bad: str
    events: str
    least_bad: float
    unit: str
    alert: str
    trouble: str

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return round(1 - self.objective, 9)


@dataclass(frozen=True)
class Speed:
    """A burn rate that is too fast where both windows say so (SRE workbook, chapter 5)."""

    factor: float
    long: str
    short: str
    severity: str
    spent: str

    @property
    def suffix(self) -> str:
        """Of the alert's name."""
        return {14.4: "Fast", 6.0: "Steady", 1.0: "Slow"}[self.factor]


SPEEDS = (
    Speed(14.4, "1h", "5m", "page", "2 % of a month's budget in an hour"),
    Speed(6.0, "6h", "30m", "page", "5 % of a month's budget in six hours"),
    Speed(1.0, "3d", "6h", "ticket", "10 % of a month's budget in three days"),
)


def _increase(metric: str, matching: str = "") -> str:
    labels = f"{{{matching}}}" if matching else ""
    return f"{_SUM}(increase({metric}{labels}[WINDOW]))"


def _slower(metric: str, than_s: float) -> str:
    """What a histogram counted beyond an edge."""
    within = _increase(f"{metric}_bucket", f'le="{than_s}"')
    return f"{_increase(f'{metric}_count')} - {within}"


CONTROL_WITHIN_S = 0.35
FIRST_FRAME_WITHIN_S = 2.0

SLOS = (
    Slo(
        name="control_to_frame",
        title="Control to frame",
        promise="99 % of controls show in a frame within 350 ms",
        objective=0.99,
        bad=_slower("control_to_frame_seconds", CONTROL_WITHIN_S),
        events=_increase("control_to_frame_seconds_count"),
        least_bad=10,
        unit="controls",
        alert="ControlsAnsweredLate",
        trouble="controls show later than 350 ms",
    ),
    Slo(
        name="frame_on_time",
        title="Frame on time",
        promise="99.9 % of frames are sent within one frame period of their time",
        objective=0.999,
        bad=_increase("frames_total", 'timing="late"'),
        events=_increase("frames_total", 'timing=~"on_time|late"'),
        least_bad=24,
        unit="frames",
        alert="FramesLate",
        trouble="frames are later than one frame period",
    ),
    Slo(
        name="session_success",
        title="Session success",
        promise="99.5 % of sessions open, and end without a service's failure",
        objective=0.995,
        bad=_increase("session_outcomes_total", 'outcome=~"not_opened|failed"'),
        events=_increase("session_outcomes_total"),
        least_bad=3,
        unit="outcomes",
        alert="SessionsFail",
        trouble="sessions do not open, or break off",
    ),
    Slo(
        name="first_frame",
        title="First frame",
        promise="99 % of new sessions show their first frame within 2 s",
        objective=0.99,
        bad=_slower("first_frame_seconds", FIRST_FRAME_WITHIN_S),
        events=_increase("first_frame_seconds_count"),
        least_bad=3,
        unit="sessions",
        alert="FirstFramesLate",
        trouble="first frames come later than 2 s",
    ),
    Slo(
        name="playout_continuity",
        title="Playout continuity",
        promise="pictures stand still for 3.6 s an hour of play at most",
        objective=0.999,
        bad=_increase("stalled_seconds_total"),
        events=f"{_increase('played_seconds_total')} + {_increase('stalled_seconds_total')}",
        least_bad=5,
        unit="seconds",
        alert="PicturesStandStill",
        trouble="pictures stand still for longer than 3.6 s an hour of play",
    ),
)

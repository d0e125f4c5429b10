"""What a player measured, frame by frame, and what that amounts to."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from livevideo.v1.frame_pb2 import Frame
from loadtests.timeline import Pace

STAGES = ("control_path", "tick_wait", "step", "handover", "decode", "encode", "send")


@dataclass(frozen=True)
class Report:
    """One session as its player saw it. Times in seconds; 0 where nothing was measured.

    late_ratio: frames that came more than one frame period after their place in time. The place moves with a
    stall, so that one stall is not counted for ever.
    index_gaps: frames that were skipped or sent again.
    duplicates: those of them that were sent again.
    comebacks: how often Watch or Send was lost and called again.
    control_to_frame: from a control being sent to the first frame that obeys it having arrived.
    """

    frames: int
    seconds: float
    fps: float
    late_ratio: float
    longest_gap_s: float
    control_to_frame_p50_s: float
    control_to_frame_p95_s: float
    controls_sent: int
    controls_accepted: int
    controls_obeyed: int
    step_p50_s: float
    decode_p50_s: float
    index_gaps: int
    duplicates: int
    comebacks: int
    first_frame_s: float
    stages_p50_s: dict[str, float]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass
class Measurements:
    """Fills up while a player plays."""

    period_s: float
    opened_at_s: float
    arrivals_s: list[float] = field(default_factory=list)
    control_to_frame_s: list[float] = field(default_factory=list)
    stages_s: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    sent_at_s: dict[int, float] = field(default_factory=dict)
    controls_sent: int = 0
    controls_accepted: int = 0
    controls_obeyed: int = 0
    index_gaps: int = 0
    duplicates: int = 0
    comebacks: int = 0
    longest_gap_s: float = 0.0
    _next_index: int = 0
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.period_s)

    def control(self, seq: int, now_s: float) -> None:
        """A control leaves."""
        self.controls_sent += 1
        self.sent_at_s[seq] = now_s

    def frame(self, frame: Frame, now_s: float) -> None:
        """A frame has arrived."""
        if frame.index != self._next_index:
            self.index_gaps += 1
            self.duplicates += frame.index < self._next_index
        self._next_index = frame.index + 1
        if self.arrivals_s:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.arrivals_s[-1])
        self.pace.frame(frame.index, now_s)
        self.arrivals_s.append(now_s)
        for seq in [seq for seq in self.sent_at_s if seq <= frame.control_seq]:
            self.control_to_frame_s.append(now_s - self.sent_at_s.pop(seq))
        if frame.HasField("times") and frame.index:
            for stage in STAGES:
                if took_s := getattr(frame.times, f"{stage}_s"):  # 0: not measured for this latent
                    self.stages_s[stage].append(took_s)

    def report(self) -> Report:
        """What it amounts to. Raises ValueError where not even two frames came."""
        if len(self.arrivals_s) < 3:
            raise ValueError(f"only {len(self.arrivals_s)} frames came; there is nothing to measure")
        generated = self.arrivals_s[1:]
        seconds = generated[-1] - generated[0]
        stages = {stage: percentile(values, 0.5) for stage, values in self.stages_s.items()}
        return Report(
            frames=len(self.arrivals_s),
            seconds=round(seconds, 3),
            fps=round((len(generated) - 1) / seconds, 3),
            late_ratio=round(self.pace.late_frames / len(generated), 5),
            longest_gap_s=round(self.longest_gap_s, 4),
            control_to_frame_p50_s=percentile(self.control_to_frame_s, 0.5),
            control_to_frame_p95_s=percentile(self.control_to_frame_s, 0.95),
            controls_sent=self.controls_sent,
            controls_accepted=self.controls_accepted,
            controls_obeyed=self.controls_obeyed,
            step_p50_s=stages["step"],
            decode_p50_s=stages["decode"],
            index_gaps=self.index_gaps,
            duplicates=self.duplicates,
            comebacks=self.comebacks,
            first_frame_s=round(self.arrivals_s[0] - self.opened_at_s, 3),
            stages_p50_s=stages,
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie, by nearest rank; 0 where there are none."""
    if not values:
        return 0.0
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 5)

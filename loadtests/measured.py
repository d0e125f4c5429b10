"""`Seen` by one player, and what many of them amount to: `Measured`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from loadtests.timeline import Timeline, percentiles


@dataclass
class Seen:
    """What one player saw.

    made_to_sent_s: from a latent being made to its first frame being sent, as the decoder says: the playout
    delay, decoding, encoding, and what the services added.
    """

    timeline: Timeline
    made_to_sent_s: list[float] = field(default_factory=list)
    first_frame_s: float = 0.0  # from asking for a session; 0: none came
    controls: int = 0
    accepted: int = 0
    refused_by: str = ""  # the reason, of who was not let in
    retry_after_s: float = 0.0  # what that one was told
    broken_by: str = ""  # what ended it before its time


@dataclass(frozen=True)
class Measured:
    """What all players saw between them.

    deadline_hit: the share of frames that came no more than one frame period after their place (`Pace`);
    those that never came did not.
    added_latency: a frame's arrival less its place on a line that no stall moves (`Timeline`).
    late_by_two: frames that this made two periods or more. made_to_sent: see `Seen`.
    control_to_frame: from the moment when a key was due to change to the first frame that obeys it.
    cpu_s: what the players themselves took of the processor.
    """

    players: int
    sessions: int  # that were let in
    seconds: float
    refused: dict[str, int]
    retry_after_s: float
    broken: dict[str, int]
    frames: int
    timed_frames: int  # that came once their sessions had settled
    deadline_hit: float
    late_by_two: int
    index_gaps: int
    stalled_s: float  # how long pictures stood still, past one frame period
    added_latency_p50_s: float
    added_latency_p95_s: float
    added_latency_p99_s: float
    added_latency_max_s: float
    made_to_sent_p50_s: float
    made_to_sent_p99_s: float
    control_to_frame_p50_s: float
    control_to_frame_p95_s: float
    control_to_frame_p99_s: float
    controls_within: float  # the share of controls that showed in a frame within `within_s`
    controls: int
    controls_unacknowledged: int
    first_frame_p99_s: float
    cpu_s: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def summed(seen: Sequence[Seen], seconds: float, within_s: float = 0.35, cpu_s: float = 0.0) -> Measured:
    """All players' together."""
    added_s = np.concatenate([np.zeros(0), *(each.timeline.added_latency_s() for each in seen)])
    periods = np.concatenate(
        [np.zeros(0), *(each.timeline.added_latency_s() / each.timeline.period_s for each in seen)]
    )
    waited_s = [took_s for each in seen for took_s in each.timeline.control_to_frame_s]
    latencies_s = percentiles(added_s, 0.5, 0.95, 0.99, 1.0)
    controls_s = percentiles(waited_s, 0.5, 0.95, 0.99)
    made_s = [took_s for each in seen for took_s in each.made_to_sent_s]
    missing = sum(each.timeline.missing for each in seen)
    frames = sum(len(each.timeline.indices) for each in seen)
    late = sum(each.timeline.pace.late_frames for each in seen) + missing
    firsts_s = [each.first_frame_s for each in seen if each.first_frame_s]
    return Measured(
        players=len(seen),
        sessions=sum(not each.refused_by for each in seen),
        seconds=seconds,
        refused=dict(Counter(each.refused_by for each in seen if each.refused_by)),
        retry_after_s=max((each.retry_after_s for each in seen), default=0.0),
        broken=dict(Counter(each.broken_by for each in seen if each.broken_by)),
        frames=frames,
        timed_frames=len(added_s),
        deadline_hit=round(1 - late / (frames + missing), 6) if frames else 0.0,
        late_by_two=int(np.sum(periods >= 2.0)),
        index_gaps=sum(each.timeline.index_gaps for each in seen),
        stalled_s=round(sum(each.timeline.pace.stalled_s for each in seen), 3),
        added_latency_p50_s=latencies_s[0],
        added_latency_p95_s=latencies_s[1],
        added_latency_p99_s=latencies_s[2],
        added_latency_max_s=latencies_s[3],
        made_to_sent_p50_s=percentiles(made_s, 0.5)[0],
        made_to_sent_p99_s=percentiles(made_s, 0.99)[0],
        control_to_frame_p50_s=controls_s[0],
        control_to_frame_p95_s=controls_s[1],
        control_to_frame_p99_s=controls_s[2],
        controls_within=round(sum(took_s <= within_s for took_s in waited_s) / max(1, len(waited_s)), 5),
        controls=sum(each.controls for each in seen),
        controls_unacknowledged=sum(each.controls - each.accepted for each in seen),
        first_frame_p99_s=percentiles(firsts_s, 0.99)[0],
        cpu_s=round(cpu_s, 2),
    )

"""`Autoscaler`: how many engines there should be, as the chart asks and as Kubernetes' HPA follows it.

A test holds `wanted` against the query that the chart renders. The rest is Kubernetes' own:
k8s.io/docs/tasks/run-application/horizontal-pod-autoscale.
"""

import math
from collections import deque
from dataclasses import dataclass

SYNC_S = 15.0  # between two looks
TOLERANCE = 0.1  # a wish that is so close to what there is changes nothing


@dataclass(frozen=True)
class Scaling:
    """The chart's `autoscaling`, of engines; but for the most of them, its defaults."""

    spare_sessions: int = 2
    spare_percent: float = 20.0
    min_replicas: int = 1
    max_replicas: int = 100
    scale_down_s: float = 600.0
    scale_down_pods: int = 1  # most that go in a minute,
    scale_down_percent: float = 5.0  # or this share of them, whichever is more

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"{self.min_replicas} to {self.max_replicas} engines: the least must be 1 or more, and not "
                "above the most"
            )
        for name in ("spare_sessions", "spare_percent", "scale_down_s", "scale_down_percent"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.scale_down_pods < 1:
            raise ValueError(f"scale_down_pods is {self.scale_down_pods}; it must be 1 or more")

    def wanted(self, playing: int, free: int, engines: float) -> float:
        """Engines for those who play and the spare seats, where `engines` have so many seats."""
        seats = playing * (1 + self.spare_percent / 100) + self.spare_sessions
        return seats * engines / max(free + playing, 1)


class Autoscaler:
    """One HPA. Times are seconds from any beginning, and do not go back."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._wishes: deque[tuple[float, int]] = deque()
        self._gone: deque[tuple[float, int]] = deque()

    def replicas(self, now_s: float, current: int, wanted: float) -> int:
        """How many there shall be, where `current` are there or starting."""
        scaling = self._scaling
        if not self._wishes:  # as Kubernetes takes what it finds for what was wished
            self._wishes.append((now_s, current))
        is_close = current and abs(wanted / current - 1) <= TOLERANCE
        wish = current if is_close else math.ceil(wanted)
        wish = min(max(wish, scaling.min_replicas), scaling.max_replicas)
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - scaling.scale_down_s:
            self._wishes.popleft()
        if wish >= current:
            # Kubernetes' own pace where the chart names none: four pods or twice as many, each 15 s.
            return min(wish, max(current + 4, 2 * current))
        wish = min(current, max(each for _, each in self._wishes))
        while self._gone and self._gone[0][0] <= now_s - 60:
            self._gone.popleft()
        gone = sum(count for _, count in self._gone)
        begun = current + gone
        most = max(scaling.scale_down_pods, math.ceil(begun * scaling.scale_down_percent / 100))
        fewer = max(wish, begun - most)
        fewer = min(fewer, current)
        if fewer < current:
            self._gone.append((now_s, current - fewer))
        return fewer

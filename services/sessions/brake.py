"""`Brake`: who asks again at once, however often it is refused, is answered at a bounded pace."""

import time
from collections import OrderedDict
from collections.abc import Callable

_LONGEST_S = 2.0  # nobody waits longer for a refusal; most of a flood waits that long
_MOST_KNOWN = 10_000


class Brake:
    """A tenant's refusals are answered at once up to `per_s`, then at that pace.

    A client that waits for its answer before it asks again is slowed down by that, and what it costs the
    other tenants with it. One that does not is answered after two seconds, and costs what it always did.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._next_s: OrderedDict[str, float] = OrderedDict()  # when each one's next answer is due

    def wait_s(self, tenant: str) -> float:
        """How long the refusal that `tenant` is due should wait; "" stands for all who could not say who they
        are."""
        now_s = self._clock()
        due_s = max(self._next_s.pop(tenant, 0.0), now_s - 1.0)  # a second's worth may come at once
        wait_s = min(max(0.0, due_s - now_s), _LONGEST_S)
        self._next_s[tenant] = min(due_s + 1 / self._per_s, now_s + _LONGEST_S)
        while len(self._next_s) > _MOST_KNOWN:
            self._next_s.popitem(last=False)
        return wait_s

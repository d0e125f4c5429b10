"""What an option may be: whatever is out of range is one sentence, before any work."""

import math

ANY = (0.0, math.inf)
SHARE = (0.0, 1.0)
COUNT = (1.0, math.inf)
ABOVE_0 = (math.ulp(0.0), math.inf)


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Raises ValueError, naming the field of `config` that is not within its bounds."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not least <= value <= most:
            wanted = f"{least:g} to {most:g}" if math.isfinite(most) else f"{least:g} or more"
            wanted = "more than 0" if (least, most) == ABOVE_0 else wanted
            raise ValueError(f"{name} is {value}; choose {wanted}")

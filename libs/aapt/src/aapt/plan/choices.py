"""What would let the same GPUs hold more sessions: one change at a time, and how best to divide them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aapt.plan.cost import Hardware, Plan, plan, with_light_decoder
from aapt.plan.count import Count, count

SMALLER = (736, 416)  # the paper's picture for one GPU


@dataclass(frozen=True)
class Division:
    """The same GPUs as `replicas` of `gpus_each`, and the sessions of all replicas together."""

    replicas: int
    gpus_each: int
    sessions: int


@dataclass(frozen=True)
class Choice:
    """One change; `as_one` is what a single replica of all GPUs then does."""

    change: str
    as_one: Plan

    def best(self, *, is_pipelined: bool) -> Division:
        """The division that plays most sessions; of equals the one with the fastest step."""
        counted, hardware = self.as_one.count, self.as_one.hardware
        divisions = []
        for each in range(1, hardware.gpus + 1):
            if hardware.gpus % each or counted.preset.dit.heads % each:
                continue
            made = plan(counted, replace(hardware, gpus=each))
            replicas = hardware.gpus // each
            divisions.append(Division(replicas, each, replicas * made.sessions(is_pipelined=is_pipelined)))
        return max(divisions, key=lambda division: (division.sessions, division.gpus_each))


def choices(base: Count, hardware: Hardware, *, has_light_decoder: bool) -> Iterator[Choice]:
    """`base` as it is, then with half the window, fp8, a smaller picture, and all of them."""

    def changed(change: str, counted: Count, hardware: Hardware) -> Choice:
        return Choice(change, plan(with_light_decoder(counted) if has_light_decoder else counted, hardware))

    preset = base.preset
    yield changed("as it is", base, hardware)
    halved = replace(preset, dit=replace(preset.dit, window=preset.dit.window // 2))
    yield changed(f"window {halved.dit.window}", count(halved), hardware)
    smaller = halved
    if preset.width_px * preset.height_px > SMALLER[0] * SMALLER[1]:
        width_px, height_px = SMALLER
        yield changed(
            f"{width_px}x{height_px}",
            count(replace(preset, width_px=width_px, height_px=height_px)),
            hardware,
        )
        smaller = replace(halved, width_px=width_px, height_px=height_px)
    if hardware.gpu.fp8_flop_per_s:
        yield changed("fp8 linear layers", base, replace(hardware, linear="fp8"))
        both = replace(hardware, linear="fp8", attention="fp8")
        yield changed("fp8 everywhere", base, both)
        yield changed("all of these", count(smaller), both)

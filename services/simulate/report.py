"""Tables and pictures of what was simulated, all from what was kept."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures
from services.simulate.policies import OURS, POLICIES

Kept = dict[str, Any]
_BEGIN, _END = "<!-- made by services.simulate: begin -->", "<!-- made by services.simulate: end -->"


def tables(kept: Kept) -> str:
    """Markdown."""
    runs = kept["runs"]
    fleet = _of(runs, "fleet")
    parts = [_fleet(fleet, kept), _policies(runs, kept["seeds"]), _rules(runs)]
    parts += [_upgrades(runs)] if _of(runs, "upgrade") else []
    parts += [_pool(runs)] if _of(runs, "pool") else []
    return "\n\n".join(parts)


def write_into(page: Path, text: str) -> None:
    """Between its two marks, in place of what was there. Raises ValueError where it has none."""
    written = page.read_text()
    before, begin, rest = written.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for tables; put the lines {_BEGIN} and {_END} there")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _fleet(fleet: Sequence[Kept], kept: Kept) -> str:
    gpus, came = kept["gpus"], sum(each["came"] for each in fleet)
    rows = [
        ("GPUs, deployments", f"{gpus * len(fleet):,}, {len(fleet)}"),
        ("players who came", f"{came:,}"),
        ("most who played at once", f"{max(kept['evening']['playing']):,}"),
        ("never played", f"{_percent(_turned_away(fleet))}; of a deployment {_spread(fleet, _away)}"),
        ("were seated from the queue, after", _waited(fleet)),
        ("latents in time", f"{_percent(_in_time(fleet), 4)}"),
        ("moved by drains, without a pause", f"{_sum(fleet, 'moved'):,}"),
        ("machines that failed", f"{_sum(fleet, 'machines_failed')}"),
        ("sessions that went on elsewhere, were lost", _resumed(fleet)),
        ("lost their seats to a higher priority", f"{_sum(fleet, 'preempted'):,}"),
        ("GPU hours", f"{_sum(fleet, 'gpu_hours'):,.0f}"),
        ("the least that an oracle needs for these sessions", f"{_sum(fleet, 'least_gpu_hours'):,.0f}"),
        ("GPU hours, of the oracle's", _spread(fleet, _of_least)),
    ]
    head = f"| The fleet, {kept['hours']:g} hours around the peak | |"
    return "\n".join([head, "|---|---|", *(f"| {what} | {was} |" for what, was in rows)])


def _policies(runs: Sequence[Kept], seeds: int) -> str:
    lines = [
        f"| placement, {seeds} seeds | never played | latents late, a million | moved | lost "
        "| GPU hours, of the oracle's |",
        "|---|---|---|---|---|---|",
    ]
    for policy in POLICIES:
        own = [each for each in _of(runs, "policy") if each["policy"] == policy]
        cells = (
            policy,
            _spread(own, _away),
            _spread(own, _late, "{:.1f}"),
            _spread(own, lambda each: each["moved"], "{:.0f}"),
            _spread(own, lambda each: each["lost"], "{:.0f}"),
            _spread(own, _of_least),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rules(runs: Sequence[Kept]) -> str:
    lines = [
        "| seats kept free | never played | waited, mean | lost | GPU hours | of the oracle's |",
        "|---|---|---|---|---|---|",
    ]
    for each in _of(runs, "rule"):
        mean_s = each["waited_s"] / each["waited"] if each["waited"] else 0.0
        cells = (
            each["setting"],
            _percent(_away(each)),
            f"{mean_s:.0f} s",
            f"{each['lost']}",
            f"{each['gpu_hours']:.0f}",
            _percent(_of_least(each), 0),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _upgrades(runs: Sequence[Kept]) -> str:
    lines = [
        "| rolling upgrade behind the peak | took | moved | lost | never played | latents late, a million |",
        "|---|---|---|---|---|---|",
    ]
    without = next(each for each in _of(runs, "fleet") if each["seed"] == 0)
    for setting, each in [("none", without), *((each["setting"], each) for each in _of(runs, "upgrade"))]:
        took = f"{each['upgrade_s'] / 3600:.1f} h" if each["upgrade_s"] else ""
        cells = (
            setting,
            took,
            f"{each['moved']}",
            f"{each['lost']}",
            _percent(_away(each)),
            f"{_late(each):.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pool(runs: Sequence[Kept]) -> str:
    (pool,) = _of(runs, "pool")
    return (
        f"All in one deployment, for the hour of the peak: {pool['highest_playing']:,} played at once, "
        f"{_percent(_away(pool))} of {pool['came']:,} players never did."
    )


def plot_evening(evening: dict[str, list[float]], out: Path) -> None:
    """Who plays in all deployments, and the seats there are."""
    hours, playing, seats = (evening[name] for name in ("hour", "playing", "seats"))
    figure, axis = plt.subplots(figsize=(8, 3.6))
    axis.fill_between(hours, playing, color="tab:blue", alpha=0.35, label="sessions that play")
    axis.plot(hours, seats, color="tab:red", label="seats that serve")
    axis.set(xlabel="hour of the day", ylabel="sessions", ylim=(0, None))
    axis.xaxis.set_major_formatter(lambda hour, _: f"{hour % 24:g}")
    axis.legend(loc="lower right")
    figures.save(figure, out)


def plot_rules(runs: Sequence[Kept], out: Path) -> None:
    """What it costs to turn fewer players away."""
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for place, each in enumerate(_of(runs, "rule")):
        x, y = each["gpu_hours"], 100 * _away(each)
        axis.plot([x], [y], "o", color="tab:blue")
        axis.annotate(
            each["setting"],
            (x, y),
            xytext=(6, (5, -12, 14)[place % 3]),
            textcoords="offset points",
            fontsize="small",
        )
    axis.set(xlabel="GPU hours of one deployment", ylabel="players who never played, %")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.4, y=0.15)
    figures.save(figure, out)


def plot_policies(runs: Sequence[Kept], out: Path) -> None:
    """Latents that came late, by policy; each seed a dot."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    names = list(reversed(POLICIES))
    for place, policy in enumerate(names):
        late = [_late(each) for each in _of(runs, "policy") if each["policy"] == policy]
        axis.plot(
            late, [place] * len(late), "o", color="tab:green" if policy == OURS else "tab:blue", alpha=0.6
        )
    axis.set(xlabel="latents late or missing, of a million", yticks=range(len(names)), xlim=(0, None))
    axis.set_yticklabels(names)
    figures.save(figure, out)


def _of(runs: Sequence[Kept], experiment: str) -> list[Kept]:
    return [each for each in runs if each["experiment"] == experiment]


def _sum(runs: Sequence[Kept], name: str) -> Any:
    return sum(each[name] for each in runs)


def _away(each: Kept) -> float:
    return float(each["gave_up"] / each["came"])


def _turned_away(runs: Sequence[Kept]) -> float:
    return float(_sum(runs, "gave_up") / _sum(runs, "came"))


def _late(each: Kept) -> float:
    return float(1e6 * each["latents"]["late"] / each["latents"]["due"])


def _in_time(runs: Sequence[Kept]) -> float:
    late, due = (sum(each["latents"][name] for each in runs) for name in ("late", "due"))
    return float(1 - late / due)


def _of_least(each: Kept) -> float:
    return float(each["gpu_hours"] / each["least_gpu_hours"])


def _waited(runs: Sequence[Kept]) -> str:
    waited = _sum(runs, "waited")
    mean_s = _sum(runs, "waited_s") / waited if waited else 0.0
    return f"{waited:,}, {mean_s:.1f} s in the mean"


def _resumed(runs: Sequence[Kept]) -> str:
    return f"{_sum(runs, 'resumed'):,}, {_sum(runs, 'lost'):,}"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _spread(runs: Sequence[Kept], of: Callable[[Kept], float], form: str = "") -> str:
    """The mean, and the least and the most."""
    values = [of(each) for each in runs]
    mean, low, high = (
        form.format(value) if form else _percent(value, 1)
        for value in (statistics.fmean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"

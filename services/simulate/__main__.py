"""A thousand GPUs and ten thousand players, simulated: `python -m services.simulate`.

The scripts that seat players are those that Redis runs; engines are arithmetic of the cost model. It takes
a quarter of an hour on one core. With --keep, bench/results.json, docs/scale.md and its pictures say what
came of it.

    python -m services.simulate --deployments 1 --gpus 100 --sessions 1000 --seeds 1 --hours 1 --from-hour 20
    python -m services.simulate --draw      what was kept, once more
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aapt.bench.results import RESULTS, keep
from services.simulate import report
from services.simulate.demand import Demand
from services.simulate.experiments import runs, together
from services.simulate.scaling import Scaling
from services.simulate.steps import by_cost_model

_DOCS = Path("docs")


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """What is kept of all runs. Raises ValueError for what cannot be simulated."""
    cost = by_cost_model(options.preset)
    demand = Demand(
        hours=options.hours,
        from_hour=options.from_hour,
        peak_sessions=options.sessions / options.deployments,
        plays_s=60 * options.play_minutes,
    )
    gpus = options.gpus // options.deployments
    scaling = Scaling(
        max_replicas=gpus,
        spare_percent=options.spare_percent,
        scale_down_percent=options.scale_down_percent,
    )
    planned = list(
        runs(
            cost,
            demand,
            scaling,
            deployments=options.deployments,
            seeds=options.seeds,
            has_pool=options.pool,
        )
    )
    hours = sum(int(run.scenario.demand.hours) for run in planned)
    kept, curves = [], []
    with tqdm(total=hours, unit="h", desc="simulated hours") as bar:
        for run in planned:
            bar.set_postfix_str(f"{run.experiment}: {run.setting}")
            numbers, curve = run.play(bar.update)
            kept.append(numbers)
            if run.experiment == "fleet":
                curves.append(curve)
    return {
        "runs": kept,
        "evening": together(curves),
        "gpus": gpus,
        "hours": options.hours,
        "seeds": options.seeds,
        "preset": options.preset,
    }


def drawn(kept: dict[str, Any], folder: Path) -> None:
    """Into docs/scale.md and its pictures."""
    report.write_into(folder / "scale.md", report.tables(kept))
    report.plot_evening(kept["evening"], folder / "scale-evening.png")
    report.plot_rules(kept["runs"], folder / "scale-rules.png")
    report.plot_policies(kept["runs"], folder / "scale-policies.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m services.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpus", type=int, default=1000, help="of all deployments, an engine on each")
    parser.add_argument("--deployments", type=int, default=10, help="that share players and GPUs evenly")
    parser.add_argument("--sessions", type=float, default=10_000, help="offered at the peak")
    parser.add_argument("--play-minutes", type=float, default=8.0, help="of a session, in the mean")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--from-hour", type=float, default=19.0, help="of the day; the peak is at 20")
    parser.add_argument("--seeds", type=int, default=3, help="for each policy of placement")
    parser.add_argument("--preset", default="wan-1.3b", help="on one H100 each, in fp8, by the cost model")
    parser.add_argument(
        "--spare-percent",
        type=float,
        default=Scaling.spare_percent,
        help="the chart's autoscaling.sparePercent",
    )
    parser.add_argument(
        "--scale-down-percent", type=float, default=Scaling.scale_down_percent, help="and scaleDownPercent"
    )
    parser.add_argument("--pool", action="store_true", help="also all in one deployment, for an hour")
    parser.add_argument("--keep", action="store_true", help="write docs/scale.md and bench/results.json")
    parser.add_argument("--draw", action="store_true", help="simulate nothing; draw what was kept")
    options = parser.parse_args()
    if min(options.deployments, options.seeds) < 1 or options.gpus < options.deployments:
        parser.error("there must be a deployment, a seed, and a GPU for each deployment, or more")
    if options.draw:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if "scale" not in results:
            parser.error(f"{RESULTS} holds no simulation; run one with --keep first")
        drawn(results["scale"], _DOCS)
        return
    try:
        kept = simulated(options)
    except ValueError as error:
        parser.error(str(error))
    print(report.tables(kept))
    if options.keep:
        keep("scale", kept)
        drawn(kept, _DOCS)


if __name__ == "__main__":
    main()

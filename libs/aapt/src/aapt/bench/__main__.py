"""What the network costs on this machine: `python -m aapt.bench`. Nothing else should run meanwhile.

Prints a table and keeps the numbers in bench/results.json.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch
from tqdm import tqdm

from aapt import checkpoint
from aapt.bench import ranks, steps
from aapt.bench.results import RESULTS, keep, machine, table
from aapt.evals.cost import measure_cost


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aapt.bench", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--threads", type=int, default=1, help="of a step; ranks have one each")
    parser.add_argument("--minutes", type=int, default=10, help="how old the session grows, in its own time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = checkpoint.load(options.checkpoint)
    sizes = steps.by_size(model)
    latents = options.minutes * steps.LATENTS_A_MINUTE
    with tqdm(total=latents, desc="growing old", unit="latent", file=sys.stderr) as progress:
        ages = steps.by_age(model, options.minutes, progress.update)
    loops = measure_cost(model)
    alone, both = ranks.measure(1), ranks.measure(2)
    rows = [
        *(
            (f"step for {size} session{'s' * (size > 1)}, and for each of them", "", _shared(size, took_s))
            for size, took_s in sizes.items()
        ),
        (f"step in minute 1 and in minute {options.minutes}", "within 3 %", _change(ages[0], ages[-1])),
        ("evaluating the window again instead of a cache", "", _times(loops, "no_cache")),
        ("one-step diffusion forcing (two evaluations)", "2 x", _times(loops, "diffusion_forcing")),
        ("four steps, then the clean latent for the cache", "5 x", _times(loops, "four_steps")),
        (
            "a 3,600-token latent on 1 rank, on 2", "1.7 x or more",
            f"{alone.step_s:.2f} s, {both.step_s:.2f} s: {alone.step_s / both.step_s:.2f} x",
        ),
        (
            "bytes that a rank sends for it", f"{both.least_bytes:,}", f"{both.sent_bytes:,}",
        ),
    ]  # fmt: skip
    keep(
        "network",
        {
            "threads": options.threads,
            "step_s_by_sessions": {str(size): round(took_s, 6) for size, took_s in sizes.items()},
            "step_s_by_minute": [round(took_s, 6) for took_s in ages],
            "loops": loops,
            "ranks": [asdict(alone), asdict(both)],
        },
        options.out,
    )
    print(table(f"{machine()}, {options.threads} thread{'s' * (options.threads > 1)}", rows))


def _shared(size: int, took_s: float) -> str:
    return f"{1000 * took_s:.1f} ms, {1000 * took_s / size:.1f} ms"


def _change(first_s: float, last_s: float) -> str:
    return f"{1000 * first_s:.1f} ms, {1000 * last_s:.1f} ms ({100 * (last_s / first_s - 1):+.1f} %)"


def _times(loops: dict[str, float], name: str) -> str:
    return f"{loops[f'{name}_ms'] / loops['recycled_ms']:.2f} x"


if __name__ == "__main__":
    main()

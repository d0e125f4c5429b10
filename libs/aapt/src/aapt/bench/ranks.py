"""A sample on one core against the same on two: what sequence parallelism gains, and what it moves.

python -m aapt.bench.ranks       the measuring process; `measure` starts it under torchrun
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch
import torch.distributed as dist

from aapt.dit.model import PATCH, CachePass, DiT, DiTConfig
from aapt.parallel import SequenceParallel
from aapt.shapes import FRAMES_PER_LATENT

# A 720p latent: 45 x 80 = 3,600 tokens. Width and depth are what a core can do in a second or two.
HEIGHT, WIDTH = 90, 160
CONFIG = DiTConfig(
    latent_channels=16, dim=512, heads=8, layers=2, window=2, ffn_dim=2048, text_dim=8, text_tokens=4, keys=4
)  # fmt: skip


@dataclass(frozen=True)
class Shared:
    """One step of a 3,600-token latent with a full window, on `ranks` cores.

    sent_bytes: by a rank in a step. least_bytes: what Ulysses must move: q, k, v and the result of attention
    in each layer once, and the latent at the end.
    """

    ranks: int
    step_s: float
    sent_bytes: int
    least_bytes: int


def measure(ranks: int, repeats: int = 5) -> Shared:
    """Start `ranks` processes of one thread each, and take the median of their steps."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
         "-m", "aapt.bench.ranks", str(repeats)],
        check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return Shared(**json.loads(done.stdout.splitlines()[-1]))


@torch.inference_mode()
def _measured(repeats: int) -> Shared:
    parallel = SequenceParallel(dist.group.WORLD)
    ranks = dist.get_world_size()
    torch.manual_seed(0)
    dit = DiT(CONFIG, parallel)
    latent = torch.randn(1, 1, CONFIG.latent_channels, HEIGHT, WIDTH)
    cache, controls = dit.new_cache(1, HEIGHT, WIDTH), torch.zeros(1, 1, FRAMES_PER_LATENT, CONFIG.keys)
    dit.read_text(torch.zeros(1, CONFIG.text_tokens, CONFIG.text_dim), cache, 0)
    taken = []
    for index in range(1, CONFIG.window + 3 + repeats):
        dist.barrier()
        sent, begun_s = parallel.sent_bytes, time.perf_counter()
        dit(latent, latent, torch.ones(1), None, controls, cache=CachePass(cache, (0,), ((index,),)))
        taken.append(time.perf_counter() - begun_s)
    tokens, others = DiT.tokens(latent), (ranks - 1) / ranks
    numbers = tokens // ranks * others * 4 * CONFIG.dim * CONFIG.layers
    numbers += tokens // ranks * (ranks - 1) * PATCH * PATCH * CONFIG.latent_channels
    return Shared(
        ranks,
        statistics.median(taken[-repeats:]),
        parallel.sent_bytes - sent,
        int(numbers * latent.element_size()),
    )


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    measured = _measured(int(sys.argv[1]))
    if dist.get_rank() == 0:
        print(json.dumps(asdict(measured)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

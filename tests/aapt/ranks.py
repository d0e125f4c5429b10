"""Several processes that work together over gloo, as several devices would."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def gather_from_ranks(ranks: int, work: Callable[..., Any], folder: Path, *given: object) -> list[Any]:
    """What `work(*given)` returns on each of `ranks` processes of one group; raises what one of them raises.

    Starting a process takes seconds, so a test lets it do all that it has to ask.
    """
    spawn(_rank, (ranks, work, folder, given), nprocs=ranks)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]


def _rank(rank: int, ranks: int, work: Callable[..., Any], folder: Path, given: tuple[object, ...]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    store = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=2)
    )
    torch.save(work(*given), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()

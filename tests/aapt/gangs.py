"""A gang in plain processes: this one is rank 0, and every other rank is a process of its own."""

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from aapt import checkpoint
from aapt.checkpoint import Model, untrained
from aapt.lines import Address, Line, Lines
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import DEBUG, Preset
from aapt.sharded import ShardedRollout, follow, meet

SLOTS = 3
PATIENT_S = 30.0  # nobody is thought lost because the machine is busy
# 2 heads, and 15 tokens a latent: neither divides by 3 or 4, and of 8 ranks most have no head.
WIDE = replace(DEBUG, name="wide", width_px=80, height_px=48)


@dataclass(frozen=True)
class Rank:
    """What one rank brings to its gang."""

    preset: Preset = WIDE
    slots: int = SLOTS
    seed: int = 0  # of its weights
    folder: Path | None = None  # of its checkpoint; none: an untrained model


def network(preset: Preset, seed: int = 0, parallel: SequenceParallel = ALONE) -> Model:
    model = untrained(preset, seed, parallel)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        nn.init.normal_(model.dit.head.weight, std=0.2)  # a fresh network answers zero to everything
    return model


@dataclass
class Gang:
    """A gang that plays, and the processes of its ranks from 1 on."""

    world: ShardedRollout
    processes: list[BaseProcess]

    def process_id(self, rank: int) -> int:
        process_id = self.processes[rank - 1].pid
        assert process_id is not None
        return process_id


@contextmanager
def gang(
    ranks: int, folder: Path, brought: Mapping[int, Rank] | None = None, patience_s: float = PATIENT_S
) -> Iterator[Gang]:
    """A gang of `ranks`; all bring the same but for what is in `brought`. Raises what makes rank 0 refuse."""
    brought = brought or {}
    lines = Lines(ranks, silence_s=patience_s)
    meeting = f"file://{folder}/meeting"
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(
            target=_follow,
            args=(rank, ranks, lines.address, lines.key, meeting, brought.get(rank, Rank()), patience_s),
        )
        for rank in range(1, ranks)
    ]
    for process in processes:
        process.start()
    try:
        lines.connect()
        own = brought.get(0, Rank())
        world = ShardedRollout(lines, lambda: _load(0, ranks, meeting, own, patience_s), own.slots)
        yield Gang(world, processes)
    finally:
        lines.close()
        for process in processes:
            process.kill()
            process.join()
        if dist.is_initialized():
            dist.destroy_process_group()


def _follow(
    rank: int, ranks: int, address: Address, key: str, meeting: str, brought: Rank, patience_s: float
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    line = Line(address, key, rank, silence_s=patience_s)
    follow(line, lambda: _load(rank, ranks, meeting, brought, patience_s), brought.slots)


def _load(rank: int, ranks: int, meeting: str, brought: Rank, patience_s: float) -> Model:
    parallel = meet(rank, ranks, meeting, patience_s=patience_s)
    if brought.folder is not None:
        return checkpoint.load(brought.folder, parallel)
    return network(brought.preset, brought.seed, parallel)

"""A sample that several devices share (Ulysses), each a process: NCCL between GPUs, gloo between CPUs."""

import gc
import json
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from aapt.gpu_check.models import random_model
from aapt.gpu_check.speed import Speed, measure_steps
from aapt.parallel import SequenceParallel
from aapt.presets import LARGE_PRESETS, PRESETS
from aapt.serving import Serving, place

PATIENCE = timedelta(minutes=5)


def measure_ranks(preset: str, ranks: int, way: str, serving: Serving, steps: int) -> Speed:
    """A step of one session that `ranks` devices share, as the first of them sees it.

    serving: of each, on its own device of that kind. Raises what a rank raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, preset, way, asdict(serving), steps, folder), nprocs=ranks)
        return Speed(**json.loads((Path(folder) / "speed.json").read_text()))


def _rank(
    rank: int, ranks: int, preset: str, way: str, asked: dict[str, object], steps: int, folder: str
) -> None:
    is_gpu = torch.device(str(asked["device"])).type == "cuda"
    device = f"cuda:{rank}" if is_gpu else "cpu"
    if is_gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if is_gpu else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
        timeout=PATIENCE,
    )
    serving = Serving(**{**asked, "device": device})  # type: ignore[arg-type]
    speed = _measured(preset, way, serving, steps)
    if rank == 0:
        (Path(folder) / "speed.json").write_text(json.dumps(asdict(speed)))
    gc.collect()  # a group must not outlive the process's end in some network's hands
    dist.destroy_process_group()


def _measured(preset: str, way: str, serving: Serving, steps: int) -> Speed:
    group = SequenceParallel(dist.group.WORLD)
    model = random_model((PRESETS | LARGE_PRESETS)[preset], serving.device, serving.dtype, group)
    return measure_steps(place(model, serving), way, serving, steps=steps, ranks=group.ranks)

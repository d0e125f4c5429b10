"""`Gang`: the ranks of one replica. Rank 0 is the process that makes it, every other one is a Ray actor.

All stand in the replica's own placement group, on one machine: they meet on its loopback, and when the
process of rank 0 ends, Ray ends the others.
"""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from aapt.checkpoint import Model, load
from aapt.lines import START_S, Address, FirstRankHangs, Line, Lines, RankLost
from aapt.serving import AS_IT_IS, Serving, best_serving, place
from aapt.sharded import ShardedRollout, follow, meet
from services.engine.world import check_memory


@dataclass(frozen=True)
class RankSettings:
    """What all ranks of a gang have in common."""

    shards: int = 1  # how many there are
    cpus: float = 1.0  # of each
    gpus: float = 0.0  # of each; 0: they compute on CPUs
    checkpoint: str = "checkpoints/road"  # folder, on the machine where the gang is
    slots: int = 4
    torch_threads: int = 1
    is_compiled: bool = False
    fp8: bool = False

    @property
    def bundle(self) -> dict[str, float]:
        """What one rank takes of a Ray cluster."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


class Gang:
    """The ranks of one replica, and the world that they play together."""

    def __init__(self, settings: RankSettings, place: PlacementGroup, within_s: float = START_S) -> None:
        """Start rank i in bundle i of `place`, the placement group of this process; it takes seconds.

        Raises RankLost where one does not come, and RanksDiffer where they do not hold the same model.
        """
        self._meeting = tempfile.TemporaryDirectory(prefix="gang-")
        self._lines = Lines(settings.shards)
        meeting = f"file://{self._meeting.name}/meeting"
        self._actors = [
            _Rank.options(  # type: ignore[attr-defined]
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    place, placement_group_bundle_index=rank
                ),
            ).remote(settings, rank, meeting, os.getpid())
            for rank in range(1, settings.shards)
        ]
        told = [actor.gpus.remote() for actor in self._actors]
        self.gpus = ",".join(each for each in (_own_gpus(), *ray.get(told, timeout=within_s)) if each)
        self._follows = [actor.follow.remote(self._lines.address, self._lines.key) for actor in self._actors]
        try:
            self._lines.connect(within_s)
            load = _loading(settings, 0, meeting)
            self.world = ShardedRollout(self._lines, load, settings.slots, _serving(settings))
        except RankLost as lost:
            raise RankLost(f"{lost}{self._said()}") from lost

    def check(self) -> None:
        """Raises RankLost, naming the ranks, where the gang is lost."""
        self.world.check()

    def end(self) -> None:
        """Let the other ranks go. Ending twice is no error."""
        self.world.end()
        self._meeting.cleanup()

    def _said(self) -> str:
        """What Ray knows of ranks that have failed."""
        failed, _ = ray.wait(self._follows, num_returns=len(self._follows), timeout=1.0)
        for follows in failed:
            try:
                ray.get(follows)
            except Exception as error:
                return f": {error}"
        return ""


@ray.remote
class _Rank:
    """Any rank but the first."""

    def __init__(self, settings: RankSettings, rank: int, meeting: str, first_process: int) -> None:
        self._settings = settings
        self._rank = rank
        self._first_process = first_process
        self._load = _loading(settings, rank, meeting)

    def gpus(self) -> str:
        """Those that Ray gave it, as in CUDA_VISIBLE_DEVICES."""
        return _own_gpus()

    def follow(self, address: Address, key: str) -> None:
        """Play what rank 0 plays, until it ends."""
        try:
            line = Line(address, key, self._rank)
            follow(line, self._load, self._settings.slots, _serving(self._settings))
        except FirstRankHangs:
            # Serve would wait for it for twenty seconds, and so would its sessions.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first_process, signal.SIGKILL)
            raise


def _loading(settings: RankSettings, rank: int, meeting: str) -> Callable[[], Model]:
    """How this process gets its model, for ranks that meet at `meeting`."""

    def loaded() -> Model:
        torch.set_num_threads(settings.torch_threads)
        if loopback := [name for _, name in socket.if_nameindex() if name.startswith("lo")]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        backend = "nccl" if settings.gpus else "gloo"
        model = load(Path(settings.checkpoint), meet(rank, settings.shards, meeting, backend=backend))
        serving = _serving(settings)
        place(model, serving)
        check_memory(model, settings.slots, torch.device(serving.device))
        return model

    return loaded


def _serving(settings: RankSettings) -> Serving:
    """How a rank computes. Several use no graphs: one that is lost must not leave the others inside one."""
    if settings.shards == 1:
        return best_serving(
            "cuda" if settings.gpus else "cpu", is_compiled=settings.is_compiled, fp8=settings.fp8
        )
    return Serving("cuda", "bfloat16", fp8=settings.fp8) if settings.gpus else AS_IT_IS


def _own_gpus() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")

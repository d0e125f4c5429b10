"""`Ranks`: the processes that train together, started by torchrun.

They share out parameters, gradients and optimizer states (FSDP2). Each row of ranks works on clips of its
own, and shares out every clip (`SequenceParallel`). Checkpoints are whole: they go on in any number of
processes.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from aapt.dit.model import Block
from aapt.parallel import ALONE, SequenceParallel

PATIENCE = timedelta(hours=2)  # the first rank encodes recordings while the others wait


def are_several() -> bool:
    """Whether torchrun has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Meet the others, if there are any."""
    if are_several():
        dist.init_process_group(timeout=PATIENCE)


def leave() -> None:
    """Part from them."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Ranks:
    """All processes of the default group, or this one alone, for which everything here is the identity.

    device: where the networks are. parallel: the ranks of this row, for its networks. row: which clips are
      drawn. is_first: who writes.
    Raises ValueError where the processes do not divide into rows.
    """

    def __init__(self, sequence_shards: int = 1, device: str = "cpu") -> None:
        self._world = dist.get_world_size() if dist.is_initialized() else 1
        if sequence_shards < 1 or self._world % sequence_shards:
            raise ValueError(
                f"{self._world} processes do not divide into rows of {sequence_shards};"
                " choose sequence shards that divide them"
            )
        self.parallel, self.row, self.is_first = ALONE, 0, True
        self._mesh: DeviceMesh | None = None
        if self._world == 1:
            return
        self._mesh = init_device_mesh(device, (self._world,))
        self.is_first = dist.get_rank() == 0
        self.row = dist.get_rank() // sequence_shards
        if sequence_shards > 1:
            rows = (self._world // sequence_shards, sequence_shards)
            mesh = init_device_mesh(device, rows, mesh_dim_names=("data", "sequence"))
            self.parallel = SequenceParallel(mesh.get_group("sequence"))

    def shard(self, network: nn.Module, *, stays_gathered: bool) -> None:
        """Keep a share of every block's parameters, and gather them for each pass.

        stays_gathered: from the first pass of a step to its backward (ZeRO-2): for the network that plays,
          which is called once per latent, and not equally often on all ranks. Otherwise they are dropped
          after each pass (ZeRO-3).
        """
        if self._mesh is None:
            return
        for module in [*(m for m in network.modules() if isinstance(m, Block)), network]:
            fully_shard(module, mesh=self._mesh, reshard_after_forward=not stays_gathered)

    def gather(self, network: nn.Module) -> None:
        """Have all parameters here until the next backward pass, or until `scatter`."""
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.unshard()

    def scatter(self, network: nn.Module) -> None:
        """Keep only this rank's share again."""
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def wait(self) -> None:
        """Until all are here."""
        if self._mesh is not None:
            dist.barrier()

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The mean over all ranks, name by name; the same names in the same order on each."""
        if self._mesh is None or not numbers:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self._mesh.device_type)
        dist.all_reduce(values)
        return dict(zip(numbers, (values / self._world).tolist(), strict=True))

    def any(self, *is_so: bool) -> tuple[bool, ...]:
        """What is so on at least one rank."""
        return tuple(
            value > 0 for value in self.mean({str(i): float(so) for i, so in enumerate(is_so)}).values()
        )

    def whole(self, kept: Any) -> Any:
        """A state dict with whole tensors; all ranks must ask, and only the first gets them."""
        if isinstance(kept, dict):
            return {key: self.whole(value) for key, value in kept.items()}
        if isinstance(kept, DTensor):
            full = kept.full_tensor()
            return full.cpu() if self.is_first else None
        return kept


def load_whole(module: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """`load_state_dict` from whole tensors, of which this rank may keep a share."""
    own = module.state_dict()
    module.load_state_dict({name: _share(value, own.get(name)) for name, value in whole.items()})


def load_whole_optimizer(optimizer: Optimizer, whole: dict[str, Any]) -> None:
    """The same for what an optimizer knows of each parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        i: {name: _share(value, parameters[i]) for name, value in known.items()}
        for i, known in whole["state"].items()
    }
    optimizer.load_state_dict({**whole, "state": state})


def reduce_gradients(network: nn.Module, *, is_so: bool) -> None:
    """Whether the next backward passes add up gradients over the ranks, or each rank keeps its own, whole,
    until one does."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_so)


def norm_of(gradients: list[Tensor]) -> float:
    """Euclidean norm of all gradients together, of which this rank may have a share."""
    norm = nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _share(value: Any, like: Tensor | None) -> Any:
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value

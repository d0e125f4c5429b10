"""What goes on inside a network while it learns: how large its activations and its gradients are, block by
block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from aapt.dit.model import Block
from aapt.train.sharding import Ranks, norm_of

Observed = dict[str, dict[str, float]]


@contextmanager
def observed(network: nn.Module, ranks: Ranks, *, is_compiled: bool) -> Iterator[Observed]:
    """Filled once the passes and the backward inside are done: "activation_rms" of what each block leaves,
    over all passes, and "gradient_norm" of each block and of what stands beside them.

    is_compiled: compiled networks do not call hooks, so meanwhile none is compiled.
    """
    squares: dict[str, list[Tensor]] = {}
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, Block)}
    hooks = [block.register_forward_hook(_keep(squares.setdefault(n, []))) for n, block in blocks.items()]
    found: Observed = {}
    try:
        with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
            yield found
    finally:
        for hook in hooks:
            hook.remove()
    means = ranks.mean({name: float(torch.stack(seen).mean()) for name, seen in squares.items() if seen})
    found["activation_rms"] = {name: _short(mean**0.5) for name, mean in means.items()}
    found["gradient_norm"] = {
        name: _short(norm_of(seen)) for name, seen in _gradients(network, blocks).items()
    }


def _keep(squares: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    def see(block: nn.Module, given: object, left: Tensor) -> None:
        squares.append(left.detach().float().square().mean())

    return see


def _gradients(network: nn.Module, blocks: dict[str, Block]) -> dict[str, list[Tensor]]:
    parts: dict[str, list[Tensor]] = {}
    for name, p in network.named_parameters():
        if p.grad is not None:
            part = next((block for block in blocks if name.startswith(f"{block}.")), "beside the blocks")
            parts.setdefault(part, []).append(p.grad)
    return parts


def _short(value: float) -> float:
    return float(f"{value:.4g}")

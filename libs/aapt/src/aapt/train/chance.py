"""What a step draws at random: on the host, so that a run takes the same steps wherever its networks are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers between 0 and 1, on `device`."""
    return torch.rand(tuple(shape), generator=generator).to(device)


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers of mean 0 and variance 1, on `device`."""
    return torch.randn(tuple(shape), generator=generator).to(device)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device

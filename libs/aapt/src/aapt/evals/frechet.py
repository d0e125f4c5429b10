"""The Fréchet distance between Gaussians: FID and FVD are this, on features of Inception and of I3D.

FID = |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2) (arXiv:1706.08500; FVD: arXiv:1812.01717). The trace of the
root is that of (S1^1/2 S2 S1^1/2)^1/2, which is symmetric: two symmetric eigenvalue problems, no complex
numbers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Statistics = tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]


def frechet_distance(features: Float[Tensor, "n d"], true: Float[Tensor, "m d"]) -> float:
    """The distance between the Gaussians that fit two sets of features.

    It falls with the number of samples: compare only distances between sets of the same sizes. Raises
    ValueError where a set has fewer than two samples.
    """
    return gaussian_distance(gaussian(features), gaussian(true))


def gaussian(features: Float[Tensor, "n d"]) -> Statistics:
    """Mean and unbiased covariance, in double precision."""
    if len(features) < 2:
        raise ValueError(f"{len(features)} sample has no covariance; give two or more")
    return features.double().mean(0), torch.atleast_2d(torch.cov(features.double().T))


def gaussian_distance(one: Statistics, other: Statistics) -> float:
    """The squared Wasserstein-2 distance of two Gaussians; covariances may be rank-deficient."""
    (mean1, covariance1), (mean2, covariance2) = one, other
    root = _root(covariance1)
    both = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp_min(0).sqrt().sum()
    apart = (mean1 - mean2).square().sum()
    return max(0.0, float(apart + covariance1.trace() + covariance2.trace() - 2 * both))


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

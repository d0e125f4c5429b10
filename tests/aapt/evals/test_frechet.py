"""The Fréchet distance against closed forms."""

import math

import pytest
import torch

from aapt.evals.frechet import frechet_distance, gaussian, gaussian_distance


def rotation(d: int) -> torch.Tensor:
    random = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes: torch.Tensor = torch.linalg.qr(random)[0]
    return axes


def test_equal_covariances_leave_the_distance_of_the_means() -> None:
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(features + 2, features) == pytest.approx(6 * 4, rel=1e-5)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("is_rotated", [False, True])
def test_covariances_with_the_same_axes_differ_by_their_deviations(is_rotated: bool) -> None:
    one = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    other = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    axes = rotation(3) if is_rotated else torch.eye(3, dtype=torch.float64)
    mean = torch.zeros(3, dtype=torch.float64)
    made = gaussian_distance((mean, axes @ one.diag() @ axes.T), (mean + 1, axes @ other.diag() @ axes.T))
    assert made == pytest.approx(3 + 1 + 1 + 2.5**2)


def test_covariances_with_other_axes_in_two_dimensions() -> None:
    # Tr (A B)^1/2 = (Tr AB + 2 (det AB)^1/2)^1/2 for two by two.
    a = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    b = torch.tensor([[0.5, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    root = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(torch.linalg.det(a @ b))))
    mean = torch.zeros(2, dtype=torch.float64)
    expected = float(a.trace() + b.trace()) - 2 * root
    assert gaussian_distance((mean, a), (mean, b)) == pytest.approx(expected)
    assert gaussian_distance((mean, b), (mean, a)) == pytest.approx(expected)


def test_a_covariance_without_full_rank_is_no_trouble() -> None:
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    direction = rotation(5)[:, :1].T
    variance = float(line.var())
    made = frechet_distance(3 * line @ direction, line @ direction)
    assert made == pytest.approx(4 * variance)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two or more"):
        gaussian(torch.zeros(1, 3))

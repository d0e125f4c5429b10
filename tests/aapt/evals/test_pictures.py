"""PSNR, SSIM, sharpness and stillness against what they are by hand."""

import pytest
import torch
from torch import Tensor

from aapt.evals.pictures import edge_energy, movement, psnr_db, squared_error, ssim


def flat(value: float) -> Tensor:
    """A grey clip of two frames; `value` on the scale from 0 to 1."""
    return torch.full((1, 2, 3, 16, 20), 2 * value - 1)


def noise(seed: int) -> Tensor:
    return torch.rand(1, 2, 3, 24, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_tenth_off_everywhere_is_20_decibels() -> None:
    error = squared_error(flat(0.5), flat(0.6))
    torch.testing.assert_close(psnr_db(error), torch.full((1, 2), 20.0))


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    a, b, c1 = 0.4, 0.7, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    torch.testing.assert_close(ssim(flat(a), flat(b)), torch.full((1, 2), expected), atol=1e-4, rtol=0)


def test_ssim_of_a_picture_with_half_its_contrast_is_its_structure_term() -> None:
    # Stripes one pixel wide have the mean of grey under the Gaussian; only the variances differ.
    stripes = torch.ones(1, 1, 3, 16, 20)
    stripes[..., ::2] = -1
    strong, c2 = 0.2 * stripes, 0.03**2
    variance = (0.2 / 2) ** 2
    expected = (2 * variance / 2 + c2) / (variance + variance / 4 + c2)
    assert float(ssim(strong / 2, strong)) == pytest.approx(expected, abs=2e-3)


def test_ssim_is_one_for_the_same_picture_and_near_nothing_for_another() -> None:
    torch.testing.assert_close(ssim(noise(0), noise(0)), torch.ones(1, 2))
    assert float(ssim(noise(0), noise(1)).max()) < 0.2


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    small = torch.zeros(1, 1, 3, 8, 8)
    with pytest.raises(ValueError, match="11x11"):
        ssim(small, small)


def test_edge_energy_grows_with_the_square_of_contrast() -> None:
    torch.testing.assert_close(edge_energy(noise(0) / 2), edge_energy(noise(0)) / 4)
    assert not edge_energy(flat(0.3)).any()


def test_movement_is_in_bytes() -> None:
    clip = flat(0.2)
    clip[:, 1] += 2 * 10 / 255
    torch.testing.assert_close(movement(clip), torch.tensor([[10.0]]))

"""Paths between data and noise, and the grid of consistency distillation."""

import torch

from aapt.flow import clean_estimate, interpolate, shift_time, time_grid


def test_a_straight_step_along_the_true_velocity_arrives_at_the_data() -> None:
    clean, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    t = torch.tensor([0.3, 1.0])
    noisy = interpolate(clean, noise, t)
    torch.testing.assert_close(clean_estimate(noisy, noise - clean, t), clean)


def test_at_time_zero_the_estimate_is_the_input_whatever_the_network_says() -> None:
    noisy, anything = torch.randn(1, 2, 4, 2, 2), torch.randn(1, 2, 4, 2, 2)
    assert torch.equal(clean_estimate(noisy, anything, torch.zeros(1)), noisy)


def test_the_grid_is_the_papers() -> None:
    grid = time_grid(32, 24.0)
    assert (len(grid), float(grid[0]), float(grid[-1])) == (33, 0.0, 1.0)
    torch.testing.assert_close(grid[1:5], torch.tensor([0.4364, 0.6154, 0.7129, 0.7742]), atol=1e-4, rtol=0)


def test_a_shift_of_one_changes_nothing() -> None:
    u = torch.linspace(0, 1, 7)
    torch.testing.assert_close(shift_time(u, 1.0), u)

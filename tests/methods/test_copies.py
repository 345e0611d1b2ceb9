"""Random copies of images."""

from __future__ import annotations

import pytest
import torch

from featspace.methods import copies as views
from featspace.methods.copies import RandomCopies


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ramp(count: int = 1, size: int = 32) -> torch.Tensor:
    """Images whose red says how far right a pixel is and whose green how far down, in [−1, 1]; blue is 0."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    across, down = place.expand(size, size), place[:, None].expand(size, size)
    return torch.stack([across, down, 0 * down]).expand(count, 3, size, size).clone()


def test_a_copy_is_a_crop_within_the_image_mirrored_half_of_the_time():
    copies = RandomCopies(generators(*range(200)))(ramp(200), torch.arange(200))
    inner = copies[:, :, 2:-2, 2:-2]  # the edge replicates
    across, down = inner[:, 0].diff(dim=2).mean((1, 2)) * 16, inner[:, 1].diff(dim=1).mean((1, 2)) * 16
    sides = down
    torch.testing.assert_close(across.abs(), sides)  # squares
    assert sides.min() >= views.SMALLEST - 1e-9 and sides.max() <= 1 + 1e-9
    assert sides.min() < views.SMALLEST + 0.01 and sides.max() > 0.99
    assert (across < 0).double().mean() == pytest.approx(0.5, abs=0.1)
    centers = copies[:, :2].mean((2, 3))
    assert (centers.abs() <= (1 - sides[:, None]) + 0.01).all() and centers.std(0).min() > 0.03
    assert copies[:, 2].abs().max() == 0


def test_a_sample_draws_from_its_own_generator():
    images = ramp(3)
    together = RandomCopies(generators(1, 2, 3))
    alone = RandomCopies(generators(0, 0, 3))
    first = together(images, torch.arange(3))
    assert torch.equal(first[2:], alone(images[2:], torch.tensor([2])))
    second = together(images[[0, 2]], torch.tensor([0, 2]))  # the second sample has left
    assert torch.equal(second[1:], alone(images[2:], torch.tensor([2])))
    assert not torch.equal(first[2], second[1])


def test_gradients_pass():
    images = ramp().requires_grad_()
    (gradient,) = torch.autograd.grad(RandomCopies(generators(4))(images, torch.tensor([0])).sum(), images)
    assert gradient.sum().item() == pytest.approx(3 * 32 * 32, rel=1e-6)  # each pixel is a mean of pixels

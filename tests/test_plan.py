"""The cost of a decoding, foreseen without weights, against the same networks with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featspace.architectures import blank_prior
from featspace.plan import evaluation_cost, matrix_rate


class Pooled(nn.Module):
    """A network of 3·8 multiplications a pixel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1, bias=False).requires_grad_(False)

    def forward(self, images):
        return self.layer(images.float()).tanh().mean((2, 3))


def costs(device: str, dtype=torch.float32, recompute: bool = False):
    with torch.device(device):
        prior, encoder = blank_prior("small", dtype=dtype), Pooled()
    for network in (prior.unet, prior.vae):
        if recompute:
            network.enable_gradient_checkpointing()
    return evaluation_cost(prior, encoder), prior, encoder


def test_cost_on_the_meta_device_is_that_of_the_real_networks():
    foreseen, prior, encoder = costs("meta")
    real = costs("cpu")[0]
    # How attention is computed, and so what it keeps, is the device's choice.
    assert foreseen.flops == pytest.approx(real.flops, rel=0.01)
    assert real.kept <= foreseen.kept < 1.25 * real.kept
    sizes = [4 * p.numel() for part in (prior.unet, prior.vae, encoder) for p in part.parameters()]
    assert foreseen.weights == sum(sizes)


def test_cost_of_the_encoder_is_two_passes_forward_and_one_back():
    with torch.device("meta"):
        prior, encoder = blank_prior("small"), Pooled()
        nothing = nn.Module()
        nothing.forward = lambda images: images.mean((2, 3))
    pixels = 128 * 128
    with_it, without = evaluation_cost(prior, encoder).flops, evaluation_cost(prior, nothing).flops
    assert with_it - without == 3 * 2 * 3 * 8 * pixels


def test_half_precision_halves_weights_and_recomputing_spares_memory_for_operations():
    full, half, spared = costs("meta")[0], costs("meta", torch.bfloat16)[0], costs("meta", recompute=True)[0]
    assert half.flops == full.flops and half.weights == pytest.approx(full.weights / 2, rel=1e-3)
    assert 0.45 < half.kept / full.kept < 0.65
    assert spared.kept < 0.3 * full.kept and spared.flops > 1.1 * full.flops


def test_a_matrix_rate_is_measured():
    assert 1e8 < matrix_rate(torch.device("cpu"), torch.float32, seconds=0.05) < 1e14

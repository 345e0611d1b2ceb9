"""Problems for the preset `fast`: toy networks, and a prior with closed forms."""

from __future__ import annotations

import torch
from test_self_recurrence import alphas_cumprod, noise_of, problem_of_toys
from toy_models import DTYPE, ToyVAEDecoder, target_feature

from featspace.methods.noise_optimization import optimize_noise
from featspace.methods.problem import Decoded, Problem

BARS = alphas_cumprod(1000)
CENTER, SPREAD = 0.3, 0.5


def gaussian_noise(z: torch.Tensor, t: int) -> torch.Tensor:
    """The exact noise prediction where latents are normal with mean CENTER and standard deviation SPREAD."""
    bar = BARS[t]
    return (1 - bar).sqrt() * (z - bar.sqrt() * CENTER) / (bar * SPREAD**2 + 1 - bar)


def painted(z: torch.Tensor) -> torch.Tensor:
    """Latents as images of three channels: the fourth is seen by no encoder."""
    return z[:, :3]


def decode(seeds=(3,), targets=None, evaluations=30, encode=None, **options):
    targets = target_feature(5) if targets is None else targets
    problem = problem_of_toys(5, 20, targets, noise_of(*seeds))
    problem.decode_latents = ToyVAEDecoder(5)
    problem.encode = encode or problem.encode
    return optimize_noise(problem, evaluations=evaluations, **options)


def solve(encode, targets, seeds, evaluations, copy=None, preview=None, **options) -> Decoded:
    """With the exact prior of `gaussian_noise`."""
    problem = Problem(gaussian_noise, painted, encode, targets, noise_of(*seeds), BARS, copy, preview)
    return optimize_noise(problem, evaluations=evaluations, **options)


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def exact(evaluations=60, seeds=(1,), target=0.4, encode=flat, **options):
    return solve(encode, torch.full((len(seeds), 192), target, dtype=DTYPE), seeds, evaluations, **options)


def sigma(t: int) -> float:
    return float(((1 - BARS[t]) / BARS[t]).sqrt())

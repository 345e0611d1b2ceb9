"""How near features are to each other."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² over the last axis, (..., D) → (...) float64."""
    return (a.double() - b.double()).square().sum(-1)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ / (‖a‖ ‖b‖) over the last axis, (..., D) → (...) float64 in [−1, 1]; 0 if either is zero."""
    a, b = a.double(), b.double()
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    return ((a * b).sum(-1) / norms.clamp_min(torch.finfo(torch.float64).tiny)).clamp(-1, 1)


def map_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of maps (N, C, h, w) at each position, averaged over positions, (N,) float64."""
    return cosine_similarity(a.flatten(2).mT, b.flatten(2).mT).mean(1)

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


class Nearness:
    """`squared_distance` and `cosine_similarity` of features to the same many others, which are prepared once."""

    def __init__(self, others: Tensor):
        """`others`: (N, D)."""
        self._others = others.double()
        self._norms = self._others.norm(dim=-1)

    def __call__(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The distances and the similarities of a feature (D,) to the others, (N,) float64 both."""
        feature = feature.double()
        norms = (self._norms * feature.norm()).clamp_min(torch.finfo(torch.float64).tiny)
        cosines = (self._others @ feature / norms).clamp(-1, 1)
        return squared_distance(self._others, feature), cosines  # not by the product: equal ones are at 0 exactly


def map_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of maps (N, C, h, w) at each position, averaged over positions, (N,) float64."""
    return cosine_similarity(a.flatten(2).mT, b.flatten(2).mT).mean(1)

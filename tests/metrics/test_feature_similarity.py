"""How near features are to each other, in closed form."""

from __future__ import annotations

import pytest
import torch

from featspace.metrics.similarity import cosine_similarity, squared_distance


def test_distance_and_cosine_in_closed_form():
    a, b = (
        torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[0.0, 5.0], [-2.0, 0.0], [1.0, 1.0]]),
    )
    assert squared_distance(a, b).tolist() == [10.0, 9.0, 2.0]
    assert cosine_similarity(a, b).tolist() == pytest.approx([0.8, -1.0, 0.0], abs=1e-15)
    many = torch.full((10_000_000,), 1.0)  # a float32 sum of these squares would lose the last ones
    many[0] = 4097.0
    assert squared_distance(many, torch.zeros(())).item() == 4097.0**2 + 9_999_999

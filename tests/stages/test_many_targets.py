"""With many targets no step compares each with each where that is dear, and what is shared out is what it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.metrics.similarity import Nearness, cosine_similarity, squared_distance
from featspace.stages import agreement, layers

COUNT = 40


class MeanColor(nn.Module):
    dim, shape, network, has_classifier = 3, (3,), "mean color", False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.mean(dim=(2, 3))


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    """More photographs than an image is held against, and of each one decoded image."""
    rng, ids = np.random.default_rng(0), [f"t{number:02d}" for number in range(COUNT)]
    for folder, end in (("targets", ""), ("decoded", "-0")):
        (tmp_path / folder).mkdir()
        for id in ids:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / folder / f"{id}{end}.png")
    table = pd.DataFrame({"id": ids, "kind": "photo", "text": "", "source": ""})
    table.to_csv(tmp_path / "targets/targets.csv", index=False)
    pd.DataFrame({"id": ids, "sample": 0}).to_csv(tmp_path / "decoded/decoded.csv", index=False)
    return tmp_path / "targets"


def test_chance_is_of_a_bounded_number_of_other_photographs(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[layers.Seen] = []

    def counting(image: layers.Seen, photograph: layers.Seen) -> dict[str, float]:
        compared.append(image)
        return layers.compare(image, photograph)

    monkeypatch.setattr(agreement, "compare", counting)
    out = targets.parent
    agreement.run_agreement(
        MeanColor(), targets, [out / "decoded"], out / "agreement.csv", out / "summary.csv", resamples=5
    )
    assert len(compared) == COUNT * (1 + layers.OTHERS) and layers.OTHERS < COUNT - 1
    counts = pd.read_csv(out / "agreement.csv").groupby("against").size()
    assert counts.to_dict() == {"target": COUNT, "chance": COUNT}


def test_few_others_are_all_there_in_their_order() -> None:
    few = layers.strangers(["a", "b", "c"])
    assert few == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]} and layers.strangers(["a"]) == {"a": []}
    many = layers.strangers([f"{number:02d}" for number in range(COUNT)])
    assert Counter(map(len, many.values())) == {layers.OTHERS: COUNT}
    assert set(Counter(sum(many.values(), [])).values()) == {layers.OTHERS}  # each as often as any other
    assert all(id not in others and others == sorted(set(others)) for id, others in many.items())


def test_nearness_is_what_each_pair_gives() -> None:
    others = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    others[3] = 0
    distances, cosines = Nearness(others)(others[5])
    assert torch.equal(distances, squared_distance(others, others[5]))
    torch.testing.assert_close(cosines, cosine_similarity(others, others[5]), rtol=1e-12, atol=1e-12)
    assert distances[5] == 0 and cosines[5] == pytest.approx(1) and cosines[3] == 0


@pytest.mark.parametrize("count", [1, 15, 100])
@pytest.mark.parametrize("statistic", [np.median, np.mean])
def test_the_bootstrap_draws_whole_targets(count: int, statistic) -> None:
    rng = np.random.default_rng(count)
    groups = {f"{number}": rng.normal(size=rng.integers(1, 4)) for number in range(count)}
    draws = np.random.default_rng(3).integers(count, size=(200, count))
    parts = list(groups.values())
    expected = [statistic(np.concatenate([parts[target] for target in draw])) for draw in draws]
    low, high = bootstrap_interval(groups, statistic, resamples=200, seed=3)
    assert (low, high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), rel=1e-9)

"""The loop that every training shares: exact resume, its end, its schedule, its average."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from featspace_training.loop import Paused, Recipe, _schedule, batch_indices, fit
from torch import nn

from featspace.utils.errors import FeatspaceError

SPEED = {"batch": 4, "lr": 1e-3}


def train_line(steps: int, folder, stop_at: int | None = None, **changes) -> nn.Module:
    """A linear model trained by the loop, interrupted before step `stop_at` if that is given."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(10, 3)

    def loss(model, indices, generator):
        calls.append(indices)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        noise = torch.randn(len(indices), 1, generator=generator)
        return (model(x[indices]) - x[indices].sum(1, keepdim=True) + 0.1 * noise).square().mean()

    calls: list = []
    recipe = Recipe(steps=steps, checkpoint_seconds=-1, evaluate_every=2, **SPEED | changes)
    return fit(model, loss, lambda m: {"bias": m.bias.item()}, recipe, 10, folder / "line.pt", folder / "line.csv")


def test_an_interrupted_run_resumes_exactly(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train_line(12, whole)
    with pytest.raises(KeyboardInterrupt):
        train_line(12, parts, stop_at=7)
    for _ in range(2):  # the second time there is no step left to take
        (parts / "line.csv").unlink()  # as DVC does with a stage's outputs before it runs
        resumed = train_line(12, parts)
        assert torch.equal(expected.weight, resumed.weight) and torch.equal(expected.bias, resumed.bias)
        assert (whole / "line.csv").read_bytes() == (parts / "line.csv").read_bytes()


def test_a_training_whose_time_is_up_pauses_and_resumes_exactly(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train_line(4, whole)
    for done in (1, 2, 3):
        with pytest.raises(Paused, match=f"line: {done} of 4 steps"):
            train_line(4, parts, seconds=1e-9)
    assert torch.equal(expected.weight, train_line(4, parts, seconds=1e-9).weight)


def test_a_training_that_must_end_in_time_is_one_of_fewer_steps(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    ended = train_line(10_000, cut, until=0)
    steps = int(pd.read_csv(cut / "line.csv")["step"].iloc[-1])
    assert steps == 26  # the 21 that it takes to know how long one takes, and the fall
    assert torch.equal(ended.weight, train_line(steps, whole).weight)


@pytest.mark.parametrize("shorter", [5, 11])
def test_a_finished_training_can_be_made_longer(shorter, tmp_path):
    """As if it had been that long from the start: it goes on from before the learning rate fell."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train_line(20, whole)
    ended = train_line(shorter, parts)
    longer = train_line(20, parts)
    assert torch.equal(expected.weight, longer.weight) and not torch.equal(ended.weight, longer.weight)
    assert pd.read_csv(parts / "line.csv")["step"].iloc[-1] == 20


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train_line(3, tmp_path)
    with pytest.raises(FeatspaceError, match="another recipe"):
        train_line(3, tmp_path, lr=2e-3)
    train_line(20, tmp_path)
    with pytest.raises(FeatspaceError, match="another recipe"):  # its rate would have fallen long before
        train_line(10, tmp_path)


def test_the_learning_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, warmup=10, decay=0.2, batch=1, lr=1)
    rates = [_schedule(step, recipe) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2]) and rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)


def test_averaging_keeps_masks_whole(tmp_path):
    """An infinite constant, such as an attention mask, has no average: inf − inf is NaN."""

    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)

        def forward(self, x):
            return (super().forward(x) + self.mask).softmax(-1)

    def finite(model) -> dict[str, float]:
        return {"finite": float(model(torch.ones(1, 2)).isfinite().all())}

    recipe = Recipe(steps=3, **SPEED)
    files = tmp_path / "m.pt", tmp_path / "m.csv"
    fit(Masked(), lambda model, *_: model(torch.ones(1, 2)).square().sum(), finite, recipe, 4, *files)
    assert (pd.read_csv(files[1])["finite"] == 1).all()


def test_an_epoch_visits_every_sample_once():
    seen = torch.cat([batch_indices(step, 4, 10, seed=1) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()

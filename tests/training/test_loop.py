"""The loop that every training shares: exact resume, its end, its schedule, its average."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from featspace_training.data import Augmented, Indices, augmentation
from featspace_training.loop import Paused, fit
from featspace_training.recipe import Recipe
from torch import nn

from featspace.utils.errors import FeatspaceError

SPEED = {"batch": 4, "lr": 1e-3}


def train_line(steps: int, folder, stop_at: int | None = None, **changes) -> nn.Module:
    """A linear model trained by the loop, interrupted before step `stop_at` if that is given."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(10, 3)

    def loss(model, batch, generator):
        (indices,) = batch
        calls.append(indices)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        noise = torch.randn(len(indices), 1, generator=generator)
        return (model(x[indices]) - x[indices].sum(1, keepdim=True) + 0.1 * noise).square().mean()

    calls: list = []
    recipe = Recipe(steps=steps, checkpoint_seconds=-1, evaluate_every=2, **SPEED | changes)
    files = folder / "line.pt", folder / "line.csv"
    return fit(model, loss, lambda m: {"bias": m.bias.item()}, recipe, Indices(10), *files)


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
    rates = [recipe.learning_rate(step) for step in range(100)]
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
    fit(Masked(), lambda model, *_: model(torch.ones(1, 2)).square().sum(), finite, recipe, Indices(4), *files)
    assert (pd.read_csv(files[1])["finite"] == 1).all()


def test_a_training_draws_the_same_samples_whoever_draws_them(tmp_path):
    """By processes of its own, and after an interruption."""
    images = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8)
    samples = Augmented(images, torch.arange(10), augmentation(16, 0.3))
    losses = {}

    def train(name: str, **changes) -> None:
        def loss(model, batch, generator):
            losses[name].append((batch[0].clone(), batch[1].clone()))
            return model(batch[0].float().mean((2, 3)) / 255).square().mean()

        losses.setdefault(name, [])
        recipe = Recipe(steps=6, checkpoint_seconds=-1, **SPEED | changes)
        fit(nn.Linear(3, 1), loss, lambda _: {}, recipe, samples, tmp_path / f"{name}.pt", tmp_path / f"{name}.csv")

    train("whole")
    train("divided", workers=1)
    for _ in range(5):
        with pytest.raises(Paused):
            train("parts", seconds=1e-9)
    train("parts", seconds=1e-9)
    for name in ("divided", "parts"):
        assert len(losses[name]) == 6
        for (pixels, labels), (others, same) in zip(losses["whole"], losses[name], strict=True):
            assert torch.equal(pixels, others) and torch.equal(labels, same)
    labels = torch.cat([labels for _, labels in losses["whole"]])
    assert sorted(labels[:10].tolist()) == sorted(labels[10:20].tolist()) == list(range(10))


def test_what_a_step_reads_and_writes_stays_where_it_is(tmp_path):
    """Else a replayed step would read old batches and rates, and write weights that nobody has."""
    model, places = nn.Linear(1, 1), []
    watched = torch.optim.AdamW.step

    def loss(model, batch, generator):
        places.append([batch[0].data_ptr(), *(weight.data_ptr() for weight in model.state_dict().values())])
        return model(batch[0].float().view(-1, 1)).square().mean()

    def step(optimizer):
        places[-1] += [group["lr"].data_ptr() for group in optimizer.param_groups]
        return watched(optimizer)

    files = tmp_path / "p.pt", tmp_path / "p.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        fit(model, loss, lambda _: {}, Recipe(steps=5, evaluate_every=2, **SPEED), Indices(8), *files)
    assert len(places) == 5 and places.count(places[0]) == 5

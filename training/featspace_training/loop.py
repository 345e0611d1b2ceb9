"""The training loop that every trainer shares: exact resume, a curve, the average of the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Sized
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from featspace.data.photographs import Batches
from featspace.utils.devices import choose_device
from featspace.utils.files import atomic_file
from featspace.utils.signals import left_to_parent
from featspace_training.checkpoint import State, before_decay
from featspace_training.clock import Clock
from featspace_training.recipe import Recipe
from featspace_training.step import Loss, Step


class Paused(Exception):
    """A training used up its time; it goes on from its checkpoint."""


def fit(
    model: nn.Module,
    loss: Loss,
    evaluate: Callable[[nn.Module], dict[str, float]],
    recipe: Recipe,
    samples: Sized,
    checkpoint: Path,
    curve: Path,
) -> nn.Module:
    """Trains `model` and returns the exponential moving average of its weights, in eval mode.

    `samples[index, seed]` is a tuple of tensors or numbers, and all that is random in it follows from `seed`;
    `loss(model, batch, generator)` is the scalar loss of a batch of them, which lies on the device, and all its
    randomness comes from `generator` or the global one. So a run that was interrupted and resumed from `checkpoint`
    takes exactly the steps of one that was not. On a GPU steps are replayed (`graph.Replayed`): there `loss` must not
    wait for the device, and no shape may depend on values. `curve` gets a row an evaluation.

    The state before the learning rate falls is kept beside the checkpoint, so that a training whose `steps` were raised
    goes on from there. Raises FeatspaceError when the checkpoint was written with another recipe, and Paused.
    """
    device = choose_device()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    state = State.new(model, recipe, device)
    state.resume(checkpoint, recipe)
    if state.rows:  # the file may have been removed by a pipeline tool
        _write_curve(state, curve)
    step, clock = Step(state, loss, recipe.seed, recipe.ema, device), Clock(state.step)
    progress = tqdm(total=recipe.steps, initial=state.step, desc=curve.stem, unit="step", mininterval=2)
    for batch in _load(samples, recipe, state.step, device):
        step(batch, recipe.learning_rate(state.step))
        recipe = clock.shorten(recipe, state.step)
        _show(progress, state, recipe)
        ended = state.step == recipe.steps
        if ended or state.step % recipe.evaluate_every == 0:
            _evaluate(state, evaluate, curve)
        is_paused = clock.must_pause(recipe)
        if ended or is_paused or clock.must_save(recipe):
            state.save(checkpoint, recipe)
            clock.mark_saved()
        if state.step == recipe.stable:
            state.save(before_decay(checkpoint), recipe)
        if ended or is_paused:
            break
    progress.close()
    if state.step < recipe.steps:
        raise Paused(f"{curve.stem}: {state.step:,} of {recipe.steps:,} steps")
    return state.average.to(memory_format=torch.contiguous_format).eval()


def _load(samples: Sized, recipe: Recipe, first: int, device: torch.device) -> DataLoader:
    """The batches of the steps from `first` on."""
    return DataLoader(
        samples,
        batch_sampler=Batches(first, recipe.steps, recipe.batch, len(samples), recipe.seed),
        num_workers=min(recipe.workers, os.cpu_count() or 1),
        worker_init_fn=left_to_parent,
        pin_memory=device.type == "cuda",
    )


def _evaluate(state: State, evaluate: Callable[[nn.Module], dict[str, float]], curve: Path) -> None:
    """Measures the averaged weights and adds a row to the curve."""
    state.rows.append({"step": state.step, "loss": state.mean_loss, **evaluate(state.average.eval())})
    _write_curve(state, curve)
    tqdm.write(f"{curve.stem}: {state.rows[-1]}")
    state.loss.zero_()
    state.since = 0


def _write_curve(state: State, curve: Path) -> None:
    with atomic_file(curve) as partial:
        pd.DataFrame(state.rows).to_csv(partial, index=False, float_format="%.6g")


def _show(progress: tqdm, state: State, recipe: Recipe) -> None:
    progress.total = recipe.steps
    progress.update()
    if state.step % 20 == 0:
        progress.set_postfix(loss=f"{state.mean_loss:.4f}", refresh=False)

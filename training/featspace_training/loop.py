"""The training loop that every trainer shares: one optimizer, one schedule, exact resume, a curve."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from featspace.utils.devices import choose_device, cpu_kernels, multiplies_bfloat16
from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file
from featspace_training.graph import Replayed


class Recipe(BaseModel):
    """How long and how fast one model is trained."""

    model_config = ConfigDict(extra="forbid")
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(200, ge=0)
    decay: float = Field(0.2, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    start: str | None = None
    """Folder of a model of the same architecture whose weights are the first ones; None: random ones."""
    weight_decay: float = Field(0.05, ge=0)
    ema: float = Field(0.999, ge=0, lt=1)
    seed: int = 0
    evaluate_every: int = Field(500, ge=1)
    checkpoint_seconds: float = 120
    seconds: float = Field(math.inf, gt=0)
    """After so many of them a training saves its state and stops (`Paused`)."""
    until: float = math.inf
    """As many steps as fit until then, by `time.monotonic`: `steps` is lowered while the learning rate is constant."""

    @property
    def stable(self) -> int:
        """Steps before the learning rate falls."""
        return self.steps - round(self.steps * self.decay)

    def first(self, checkpoint: Path) -> Path | None:
        """The folder whose weights a training begins with; None if with random ones, or if it goes on.

        Raises FeatspaceError if it is not there: a pipeline tool removes a model before it is made anew.
        """
        if self.start is None or checkpoint.exists():
            return None
        if not Path(self.start).is_dir():
            raise FeatspaceError(f"{self.start}: no weights to start from; get them again, then train by `make train`")
        return Path(self.start)


WARM_UP = 20
"""Steps whose time is not typical."""


class Paused(Exception):
    """A training used up its time; it goes on from its checkpoint."""


def batch_indices(step: int, batch: int, count: int, seed: int) -> torch.Tensor:
    """Indices of step `step`: epochs are permutations drawn from (seed, epoch), so nothing has to be saved."""
    start, parts = step * batch, []
    while (found := sum(map(len, parts))) < batch:
        epoch, offset = divmod(start + found, count)
        parts.append(_order(count, seed, epoch)[offset : offset + batch - found])
    return torch.cat(parts)


@functools.lru_cache(2)
def _order(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, torch.Tensor, torch.Generator], torch.Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    recipe: Recipe,
    count: int,
    checkpoint: Path,
    curve: Path,
) -> nn.Module:
    """Trains `model` and returns the exponential moving average of its weights, in eval mode.

    `loss(model, indices, generator)` is the scalar loss on the samples `indices` of `count`; all its randomness
    comes from `generator` or the global one, both seeded by (seed, step): a run that was interrupted and resumed
    from `checkpoint` takes exactly the steps of one that was not. On a GPU steps are replayed (`graph.Replayed`), so
    `loss` must not wait for the device, and no shape may depend on values. `curve` gets a row an evaluation.
    AdamW, gradient norm at most 1, bfloat16 where the hardware multiplies in it; a linear warm-up, a constant learning
    rate, and at the end a linear decay to zero (Hägele et al. 2024, arXiv 2405.18392). The state before the decay is
    kept beside the checkpoint, so that a training whose `steps` were raised goes on from there.

    Raises FeatspaceError when the checkpoint was written with another recipe or model, and Paused.
    """
    where = choose_device()
    gpu = where.type == "cuda"
    model.to(where, memory_format=torch.channels_last).train()
    precision = mixed_precision(where, model)
    if gpu:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    rate = torch.tensor(recipe.lr, device=where)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True, capturable=gpu)
    average = copy.deepcopy(model)
    step, rows, lost, seen = _resume(checkpoint, recipe, model, average, optimizer)
    running = torch.tensor(lost, dtype=torch.float64, device=where)
    if rows:  # which a pipeline tool may have removed before it ran this again
        _write_curve(rows, curve)
    generator, indices = torch.Generator(where), torch.empty(recipe.batch, dtype=torch.int64, device=where)
    kept, current = list(average.state_dict().values()), list(model.state_dict().values())

    def take() -> None:
        with precision():
            value = loss(model, indices, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _average(kept, current, recipe.ema if step else 0.0)
        running.add_(value.detach())

    take = Replayed(take, generator) if gpu else take
    started = saved = time.monotonic()
    first, timed = step, started  # the first steps are slow
    progress = tqdm(total=recipe.steps, initial=step, desc=curve.stem, unit="step", mininterval=2)
    while step < recipe.steps:
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        generator.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"].fill_(recipe.lr * _schedule(step, recipe))
        indices.copy_(batch_indices(step, recipe.batch, count, recipe.seed))
        take()
        step, seen = step + 1, seen + 1
        progress.update()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{float(running) / seen:.4f}", refresh=False)
        if step == recipe.steps or step % recipe.evaluate_every == 0:
            rows.append({"step": step, "loss": float(running) / seen, **evaluate(average.eval())})
            _write_curve(rows, curve)
            tqdm.write(f"{curve.stem}: {rows[-1]}")
            seen = 0
            running.zero_()
        now = time.monotonic()
        if step == first + WARM_UP:
            timed = now
        if step > first + WARM_UP and step < recipe.stable:
            fall = step * recipe.decay / (1 - recipe.decay)
            if now + fall * (now - timed) / (step - first - WARM_UP) > recipe.until:
                recipe = recipe.model_copy(update={"steps": round(step + fall)})
                progress.total = recipe.steps
        over = now - started > recipe.seconds
        if step == recipe.steps or over or time.monotonic() - saved > recipe.checkpoint_seconds:
            _save(checkpoint, recipe, (step, rows, float(running), seen), model, average, optimizer)
            saved = time.monotonic()
        if step == recipe.stable:
            _save(_before_decay(checkpoint), recipe, (step, rows, float(running), seen), model, average, optimizer)
        if over and step < recipe.steps:
            progress.close()
            raise Paused(f"{curve.stem}: {step:,} of {recipe.steps:,} steps")
    progress.close()
    return average.to(memory_format=torch.contiguous_format).eval()


def mixed_precision(where: torch.device, model: nn.Module) -> Callable[[], contextlib.AbstractContextManager]:
    """A context for the forward pass: bfloat16 where the device multiplies in it, else float32."""
    if not multiplies_bfloat16(where):
        return contextlib.nullcontext
    kernels = cpu_kernels(model) if where.type == "cpu" else contextlib.nullcontext

    @contextlib.contextmanager
    def context():
        with torch.autocast(where.type, dtype=torch.bfloat16), kernels():
            yield

    return context


def _write_curve(rows: list[dict], curve: Path) -> None:
    with atomic_file(curve) as aside:
        pd.DataFrame(rows).to_csv(aside, index=False, float_format="%.6g")


@torch.no_grad()
def _average(kept: list[Tensor], current: list[Tensor], keep: float) -> None:
    """kept ← keep·kept + (1 − keep)·current, of what state dicts hold; counts are copied."""
    numbers = [i for i, tensor in enumerate(kept) if tensor.is_floating_point()]
    torch._foreach_lerp_([kept[i] for i in numbers], [current[i] for i in numbers], 1 - keep)
    for i in set(range(len(kept))) - set(numbers):
        kept[i].copy_(current[i])


def _schedule(step: int, recipe: Recipe) -> float:
    rise = (step + 1) / recipe.warmup if recipe.warmup else 1.0
    fall = (recipe.steps - step) / max(1, recipe.steps - recipe.stable)
    return min(1.0, rise, fall)


def _before_decay(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(f".stable{checkpoint.suffix}")


def _save(path: Path, recipe: Recipe, progress: tuple, model, average, optimizer) -> None:
    state = {
        "recipe": _identity(recipe),
        "stable": recipe.stable,
        "progress": progress,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_file(path) as aside:
        torch.save(state, aside)


def _resume(path: Path, recipe: Recipe, model, average, optimizer) -> tuple[int, list, float, int]:
    state = _state(path, recipe)
    if state is None:
        return 0, [], 0.0, 0
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]


def _state(path: Path, recipe: Recipe) -> dict | None:
    """The furthest state that lies on the way of `recipe`; None if nothing was saved."""
    files = [file for file in (path, _before_decay(path)) if file.exists()]
    states = [torch.load(file, map_location=choose_device(), weights_only=True, mmap=True) for file in files]
    identity = _identity(recipe)
    for state in states:
        longer = {**state["recipe"], "steps": recipe.steps} == identity
        # Up to where the learning rate of one of them begins to fall, both take the same steps.
        if state["recipe"] == identity or (longer and state["progress"][0] <= min(recipe.stable, state["stable"])):
            return state
    if states:
        raise FeatspaceError(f"{path}: written with another recipe ({states[0]['recipe']}); delete it to start anew")
    return None


def standing(path: Path, recipe: Recipe) -> int:
    """Steps that the checkpoint `path` of `recipe` has behind it. Raises FeatspaceError for another recipe's."""
    state = _state(path, recipe)
    return 0 if state is None else state["progress"][0]


def _identity(recipe: Recipe) -> dict:
    return recipe.model_dump(exclude={"evaluate_every", "checkpoint_seconds", "seconds", "until"})

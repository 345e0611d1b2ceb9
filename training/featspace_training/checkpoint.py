"""What a training has reached, and the files that it goes on from."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from featspace.utils.checkpoints import read_checkpoint, write_checkpoint
from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError
from featspace_training.recipe import Recipe


@dataclass
class State:
    """Weights, their moving average, the optimizer's state, and how far the training is."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Tensor
    """Sum over the steps since the last row of the curve, () float64 on the device."""
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    """Of the curve."""
    since: int = 0
    """Steps since the last of them."""

    @classmethod
    def new(cls, model: nn.Module, recipe: Recipe, device: torch.device) -> State:
        """The state before the first step; moves `model` to the device."""
        model.to(device, memory_format=torch.channels_last).train()
        groups = [  # biases and norms are not decayed
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rate = torch.tensor(recipe.lr, device=device)  # a tensor, as a replayed step reads it where it lies
        gpu = device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True, capturable=gpu)
        return cls(model, copy.deepcopy(model), optimizer, torch.zeros((), dtype=torch.float64, device=device))

    @property
    def mean_loss(self) -> float:
        """Since the last row of the curve."""
        return float(self.loss) / self.since

    def save(self, path: Path, recipe: Recipe) -> None:
        """Writes the file `path`, as `write_checkpoint` does."""
        saved = {
            "recipe": recipe.identity,
            "stable": recipe.stable,
            "progress": (self.step, self.rows, float(self.loss), self.since),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(saved, path)

    def resume(self, path: Path, recipe: Recipe) -> None:
        """Takes up what was saved at `path`, if anything was.

        Raises FeatspaceError if it was written with another recipe.
        """
        saved = _saved(path, recipe)
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.rows, loss, self.since = saved["progress"]
        self.loss.fill_(loss)


def before_decay(path: Path) -> Path:
    """Where the state before the learning rate falls is kept, beside the checkpoint `path`."""
    return path.with_suffix(f".stable{path.suffix}")


def steps_taken(path: Path, recipe: Recipe) -> int:
    """Steps that the checkpoint `path` of `recipe` has behind it. Raises FeatspaceError for another recipe's."""
    saved = _saved(path, recipe)
    return 0 if saved is None else saved["progress"][0]


def _saved(path: Path, recipe: Recipe) -> dict | None:
    """The furthest state that lies on the way of `recipe`; None if nothing was saved.

    Raises FeatspaceError for a file that is damaged, and if there are states, but of other recipes.
    """
    files = [file for file in (path, before_decay(path)) if file.exists()]
    states = [read_checkpoint(file, choose_device(), mmap=True) for file in files]
    for state in states:
        longer = {**state["recipe"], "steps": recipe.steps} == recipe.identity
        # Up to where the learning rate of one of them begins to fall, both take the same steps.
        same_so_far = longer and state["progress"][0] <= min(recipe.stable, state["stable"])
        if state["recipe"] == recipe.identity or same_so_far:
            return state
    if states:
        raise FeatspaceError(f"{path}: written with another recipe ({states[0]['recipe']}); delete it to start anew")
    return None

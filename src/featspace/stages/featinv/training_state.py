"""How far a ControlNet's training is, and the file that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from featspace.config.featinv import TrainingParams
from featspace.utils.checkpoints import read_checkpoint, write_checkpoint
from featspace.utils.errors import FeatspaceError

SPEED_ONLY = {"photographs", "accumulate", "workers", "validations", "checkpoint_seconds"}
"""Of a recipe: the weights do not depend on it."""


@dataclass
class TrainingState:
    """The weights, the optimizer with its learning rate, and what the curve holds.

    `identity` is what the weights depend on: a recipe and what it is applied to.
    """

    controlnet: nn.Module
    optimizer: torch.optim.Optimizer
    rate: torch.optim.lr_scheduler.LRScheduler
    identity: dict[str, Any]
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    loss: float = 0.0
    """Sum over the parts of steps since the last row."""
    parts: int = 0
    """Since the last row."""

    @classmethod
    def new(cls, controlnet: nn.Module, recipe: TrainingParams, steps: int, **identity: Any) -> TrainingState:
        """The state before the first of `steps`; a cosine schedule warms up over 5 % of them."""
        optimizer = torch.optim.AdamW(controlnet.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        rate = get_scheduler(recipe.schedule, optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
        identity = {"recipe": recipe.model_dump(exclude=SPEED_ONLY), "steps": steps, **identity}
        return cls(controlnet, optimizer, rate, identity)

    @property
    def mean_loss(self) -> float:
        """Since the last row of the curve."""
        return self.loss / self.parts

    def add_row(self, measured: dict[str, float]) -> None:
        self.rows.append({"step": self.step, "loss": self.mean_loss, **measured})

    def save(self, path: Path) -> None:
        """Writes the file `path`, as `write_checkpoint` does."""
        saved = {
            "identity": self.identity,
            "progress": (self.step, self.rows, self.loss, self.parts),
            "controlnet": self.controlnet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
        }
        write_checkpoint(saved, path)

    def resume(self, path: Path, device: torch.device) -> None:
        """Takes up what was saved at `path`, if anything was.

        Raises FeatspaceError, which says what differs, if it is of another training, or as `read_checkpoint`.
        """
        if not path.is_file():
            return
        saved = read_checkpoint(path, device)
        if saved["identity"] != self.identity:
            differing = [key for key, value in self.identity.items() if saved["identity"].get(key) != value]
            raise FeatspaceError(f"{path}: of a training with another {differing[0]}; remove it to start anew")
        self.controlnet.load_state_dict(saved["controlnet"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.rate.load_state_dict(saved["rate"])
        self.step, self.rows, self.loss, self.parts = saved["progress"]

"""How long and how fast a model is trained, and which weights a training begins with."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from featspace.utils.errors import FeatspaceError


class Recipe(BaseModel):
    """What every model's recipe has."""

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
    workers: int = Field(0, ge=0)
    """Processes that draw the samples; 0: the training itself. They change the speed only."""
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

    @property
    def identity(self) -> dict:
        """What the weights depend on."""
        return self.model_dump(exclude={"workers", "evaluate_every", "checkpoint_seconds", "seconds", "until"})

    def learning_rate(self, step: int) -> float:
        """A linear warm-up, a constant rate, and at the end a linear decay to zero (Hägele et al. 2024, 2405.18392).

        A function of the step alone, so that a training can be made shorter or longer while it runs.
        """
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.steps - step) / max(1, self.steps - self.stable)
        return self.lr * min(1.0, rise, fall)

    def first(self, checkpoint: Path) -> Path | None:
        """The folder whose weights a training begins with; None if with random ones, or if it goes on.

        Raises FeatspaceError if it is not there: a pipeline tool removes a model before it is made anew.
        """
        if self.start is None or checkpoint.exists():
            return None
        if not Path(self.start).is_dir():
            raise FeatspaceError(f"{self.start}: no weights to start from; get them again, then train by `make train`")
        return Path(self.start)

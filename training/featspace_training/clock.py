"""The time that a training takes: when it saves its state, when it pauses, and how many steps fit."""

from __future__ import annotations

import time

from featspace_training.recipe import Recipe

WARM_UP = 20
"""Steps whose time is not typical."""


class Clock:
    """Runs from when the training begins, or goes on, at `step`."""

    def __init__(self, step: int):
        self.started = self.saved = self.timed = time.monotonic()
        self.typical = step + WARM_UP

    def shorten(self, recipe: Recipe, step: int) -> Recipe:
        """The recipe, of fewer steps if `recipe.until` asks for it: those taken and the fall of the learning rate."""
        now = time.monotonic()
        if step == self.typical:
            self.timed = now
        if not self.typical < step < recipe.stable:
            return recipe
        fall = step * recipe.decay / (1 - recipe.decay)
        a_step = (now - self.timed) / (step - self.typical)
        return (
            recipe if now + fall * a_step <= recipe.until else recipe.model_copy(update={"steps": round(step + fall)})
        )

    def must_pause(self, recipe: Recipe) -> bool:
        return time.monotonic() - self.started > recipe.seconds

    def must_save(self, recipe: Recipe) -> bool:
        return time.monotonic() - self.saved > recipe.checkpoint_seconds

    def mark_saved(self) -> None:
        self.saved = time.monotonic()

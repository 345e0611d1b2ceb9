"""L-BFGS on many small problems at once: each sample has a memory and a step length of its own."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 40
"""Pairs of a step and its change of the gradient that are remembered."""
SLACK = 1.2
"""How many times higher a step may lead: what is descended is rough, and to refuse each rise is to stall."""


class LBFGS:
    """Minimizes a positive function of each sample apart, an evaluation a step (Liu and Nocedal 1989).

    `point`, (N, ...), is where to evaluate next; `tell` says what was found there. A step that leads more than `SLACK`
    times higher is taken back and the next one halved; after one that does not, it doubles until it is whole again.
    `first` is the root mean square of the first step's elements, `longest` that of any step's.
    """

    def __init__(self, point: Tensor, first: float, longest: float):
        self.point, self.first, self.longest = point, first, longest
        self.base = self.gradient = torch.zeros_like(point)
        self.value = torch.full((len(point),), torch.inf, dtype=point.dtype, device=point.device)
        self.scale = torch.ones_like(self.value)
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def tell(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Takes the values (N,) and gradients (N, ...) at `point` and moves it; returns which steps were kept, (N,).

        What is not finite is neither kept nor remembered.
        """
        finite = value.isfinite() & gradient.flatten(1).isfinite().all(1)
        started = self.value.isfinite()
        gradient = _where(finite, gradient, torch.zeros_like(gradient))
        pair = self.point - self.base, gradient - self.gradient
        nothing = torch.zeros_like(gradient)
        self.pairs = [*self.pairs, tuple(_where(finite & started, part, nothing) for part in pair)][-MEMORY:]
        kept = finite & (value < SLACK * self.value)
        self.scale = torch.where(kept | ~started, (2 * self.scale).clamp(max=1), self.scale / 2)
        self.base = _where(kept | ~started, self.point, self.base)
        self.gradient = _where(kept, gradient, self.gradient)
        self.value = torch.where(kept, value, self.value)
        self.point = self.base - self._step()
        return kept

    def leave(self, stay: Tensor) -> None:
        """Goes on with the samples `stay`, (N,) of bool, alone."""
        for name in ("point", "base", "gradient", "value", "scale"):
            setattr(self, name, getattr(self, name)[stay])
        self.pairs = [(step[stay], change[stay]) for step, change in self.pairs]

    def _step(self) -> Tensor:
        """The estimated inverse Hessian times the gradient (Nocedal 1980, two loops), no longer than `longest`.

        What no pair knows is scaled by sᵀs/sᵀy of the newest (Barzilai and Borwein 1988), not by the usual sᵀy/yᵀy:
        roughness lengthens y, and the steps would be far too short (`fast` has what either gave).
        """
        tiny = torch.finfo(self.gradient.dtype).tiny
        known = [(s, y, _dot(s, y), _curved(s, y)) for s, y in self.pairs]
        step, shares = self.gradient, []
        for s, y, sy, curved in reversed(known):
            shares.append(torch.where(curved, _dot(s, step) / sy, 0))
            step = step - shares[-1] * y
        size, found = torch.zeros_like(_dot(step, step)), torch.zeros_like(_dot(step, step), dtype=torch.bool)
        for s, _, sy, curved in known:  # the newest that is curved
            size, found = torch.where(curved, _dot(s, s) / sy, size), found | curved
        step = step * size
        for (s, y, sy, curved), share in zip(known, reversed(shares), strict=True):
            step = step + torch.where(curved, share - _dot(y, step) / sy, 0) * s
        steepest = self.first * self.gradient / _rms(self.gradient).clamp_min(tiny)
        step = torch.where(found & (_dot(step, self.gradient) > 0), step, steepest)
        shorter = (self.longest / _rms(step).clamp_min(tiny)).clamp(max=1)
        return step * shorter * _wide(self.scale, step)


def _curved(step: Tensor, change: Tensor) -> Tensor:
    """Whether the function curves upward along the step, beyond rounding."""
    return _dot(step, change) > 1e-8 * (_dot(step, step) * _dot(change, change)).sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return _wide((a * b).flatten(1).sum(1), a)


def _rms(x: Tensor) -> Tensor:
    return _wide(x.flatten(1).square().mean(1).sqrt(), x)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(_wide(rows, yes), yes, no)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    """(N,) as (N, 1, ...), to meet (N, ...)."""
    return rows.view(-1, *(1,) * (like.ndim - 1))

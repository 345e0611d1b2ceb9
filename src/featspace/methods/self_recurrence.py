"""The paper's own decoder: noise predictions corrected by the gradient, each step repeated (arXiv 2509.07936).

Symbols are those of `problem`; w is the guidance weight, κ the clipping threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featspace.methods.problem import Callback, Decoded, Problem, Record
from featspace.utils.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """The steps of a decoding, from the noisiest to the clean one.

    `timesteps` are those of the prior's training; `alphas_cumprod` the ᾱ there; `betas` the noise that one step adds
    or removes, 1 − ᾱ_t/ᾱ_next (with every training step visited, the training β); `recurrences` the guided
    evaluations spent at each step (self-recurrence).
    """

    timesteps: list[int]
    alphas_cumprod: list[float]
    betas: list[float]
    recurrences: list[int]

    @property
    def evaluations(self) -> int:
        """Guided evaluations of one image."""
        return sum(self.recurrences)

    @classmethod
    def spaced(
        cls,
        alphas_cumprod: Tensor,
        steps: int = 1000,
        recurrences: int = 8,
        emphasis_steps: int = 5,
        emphasis_recurrences: int = 1000,
    ) -> Schedule:
        """`steps` timesteps spread evenly over the training schedule `alphas_cumprod` (T,); its ends are included.

        The defaults are the paper's: all of 1000 steps, 8 evaluations each but 1000 at each of the first five
        (early-step emphasis), 12,960 in all. Raises UsageError for more steps than T or fewer than 2, and
        for settings below their least.
        """
        most = len(alphas_cumprod)
        if not 2 <= steps <= most:
            raise UsageError(f"steps is {steps}: it must be between 2 and the prior's {most} training steps")
        for name, value, least in (
            ("recurrences", recurrences, 1),
            ("emphasis_recurrences", emphasis_recurrences, 1),
            ("emphasis_steps", emphasis_steps, 0),
        ):
            if value < least:
                raise UsageError(f"{name} is {value}: it must be at least {least}")
        timesteps = torch.linspace(most - 1, 0, steps, dtype=torch.float64).round().long()
        kept = alphas_cumprod.double()[timesteps]
        following = torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)])
        repeats = [emphasis_recurrences if i < emphasis_steps else recurrences for i in range(steps)]
        return cls(timesteps.tolist(), kept.tolist(), (1 - kept / following).tolist(), repeats)

    def visits(self) -> Iterator[tuple[int, int, int, float, float]]:
        """t, recurrence, recurrences, ᾱ and β of each evaluation."""
        for t, repeats, alpha, beta in zip(
            self.timesteps, self.recurrences, self.alphas_cumprod, self.betas, strict=True
        ):
            for recurrence in range(repeats):
                yield t, recurrence, repeats, alpha, beta


def paper(
    problem: Problem,
    *,
    steps: int = 1000,
    recurrences: int = 8,
    emphasis_steps: int = 5,
    emphasis_recurrences: int = 1000,
    weight: float = 4.0,
    clip_std: float | None = 3.0,
    callback: Callback | None = None,
) -> Decoded:
    """`sample_with_recurrence` on the schedule of these settings (`Schedule.spaced`), by default the published one."""
    if not 0 <= weight < float("inf"):
        raise UsageError(f"weight is {weight}: it must be a number and at least 0")
    if clip_std is not None and not clip_std > 0:
        raise UsageError(f"clip_std is {clip_std}: it must be greater than 0, or None")
    schedule = Schedule.spaced(problem.alphas_cumprod, steps, recurrences, emphasis_steps, emphasis_recurrences)
    return sample_with_recurrence(problem, schedule, weight, clip_std, callback)


def sample_with_recurrence(
    problem: Problem,
    schedule: Schedule,
    weight: float = 4.0,
    clip_std: float | None = 3.0,
    callback: Callback | None = None,
) -> Decoded:
    """Images whose features come to match their targets: the paper's update with self-recurrence (its Section 3).

    Noise is drawn for z_T, then in each evaluation for the ancestral noise (not at the last step) and for the
    re-noising (not in a step's last evaluation). `weight` 0 is the plain ancestral sampler. `clip_std` is κ; None
    clamps nothing. A sample whose gradient is not finite is left unguided in that evaluation.
    """
    z = problem.draw_noise()
    record = Record(len(z), schedule.evaluations, callback)
    for t, recurrence, repeats, alpha, beta in schedule.visits():
        z = z.detach().requires_grad_()
        eps = problem.predict_noise(z, t)
        image = problem.decode_latents(_clean(z, eps, alpha))
        before = problem.distance(image)
        (gradient,) = torch.autograd.grad(before.sum(), z)
        z, eps = z.detach(), eps.detach()
        with torch.no_grad():
            corrected_eps = eps + weight * conditioned(gradient, eps, clip_std)
            clean = _clean(z, corrected_eps, alpha)
            corrected = problem.decode_latents(clean)
            after = problem.distance(corrected)
            record.keep(image, before, t, recurrence)
            record.keep(corrected, after, t, recurrence + 0.5)
            guided = gradient.flatten(1).isfinite().all(1)
            record.add(t, recurrence, z, before, after, guided, images=image)
            is_last_step = t == schedule.timesteps[-1]
            z = clean if is_last_step else _ancestral(z, corrected_eps, alpha, beta) + beta**0.5 * problem.draw_noise()
            if recurrence < repeats - 1:
                z = (1 - beta) ** 0.5 * z + beta**0.5 * problem.draw_noise()
            z = record.step(z)
    return record.decoded(problem, z)


def conditioned(gradient: Tensor, eps: Tensor, clip_std: float | None) -> Tensor:
    """The gradient scaled to ‖ε‖ a sample, then clamped to mean ± κ·std (unbiased) of the sample's elements."""
    rows, norms = gradient.flatten(1), eps.flatten(1).norm(dim=1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    rows = torch.where(usable, rows * (norms / length), torch.zeros_like(rows))
    if clip_std is not None:
        mean, std = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        rows = rows.clamp(mean - clip_std * std, mean + clip_std * std)
    return rows.view_as(gradient)


def _clean(z: Tensor, eps: Tensor, alpha: float) -> Tensor:
    return (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def _ancestral(z: Tensor, eps: Tensor, alpha: float, beta: float) -> Tensor:
    return (z - beta / (1 - alpha) ** 0.5 * eps) / (1 - beta) ** 0.5

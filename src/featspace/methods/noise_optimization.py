"""The preset `fast`: noise optimization through a denoiser (`self_recurrence` is the paper's own decoder).

Symbols are those of `problem`; and σ_t = √((1 − ᾱ_t)/ᾱ_t), the noise level in the coordinates u = z_t/√ᾱ_t (Karras et
al. 2022, arXiv 2206.00364), in which u = z₀ + σ_t·noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featspace.methods.problem import Callback, Decoded, Problem, Record
from featspace.utils.errors import FeatspaceError, UsageError

LEVELS = 5.0, 1.0
"""σ at which ℓ is descended: half of the budget at each."""
RATE, LAST_RATE = 0.8, 0.08
"""Adam's rate when a level begins and when it ends, in units of the level's noise √(1−ᾱ_t)."""
BETAS = 0.9, 0.99
"""Adam's memories of the gradient and of its square."""
ALONE = 0.3
"""The last share of the evaluations, which look at x̂ alone: at no copy."""
SHORTEST = 1e-6
"""Of the target's length, the least that a feature's direction is known from: below, its angle counts less and less."""
RANGE = 3.0
"""κ′: the weight of pixels beyond [−1, 1], which saving clamps, so that ℓ alone would never bring them back."""
NORM = 0.3
"""κ″: the weight of what z_t is longer than noise would be; the denoiser knows no such z_t."""


def optimize_noise(
    problem: Problem,
    *,
    evaluations: int = 128,
    stop_at: float | None = None,
    start: Tensor | None = None,
    level: float = LEVELS[-1],
    callback: Callback | None = None,
) -> Decoded:
    """Images whose features come to match their targets, in `evaluations` guided evaluations.

    Each evaluation is at one level σ_t, of the two in `visits`:

    1. ε = ε_θ(z_t, t, c); ẑ₀ = (z_t − √(1−ᾱ_t)·ε)/√ᾱ_t; x̂ = D(ẑ₀).
    2. L = (ℓ̂(x̂) + ℓ̂(x̂′))/2 + κ′·e(x̂) + κ″·max(‖z_t‖²/n − 1, 0), where ℓ̂ is `polar_distance`, x̂′ a random copy
       of x̂ (`Problem.copy`), e(x̂) the mean of max(|x̂| − 1, 0)² over the pixels, n the size of z_t. The last
       evaluations do without the copy.
    3. z_t takes a step of Adam along ∇L, through encoder, VAE decoder and UNet.

    z_t is noise at first. At the first level, σ = 5, next to nothing of the image is settled: the descent chooses what
    is where. For the second half ẑ₀ goes to σ = 1 with new noise n, z_t = √ᾱ_t·ẑ₀ + √(1−ᾱ_t)·n, where the denoiser
    draws finer detail. Of all x̂ seen the one of the least ℓ is the result.

    To optimize the noise that a generator of one step starts from is ReNO's way (Eyring et al. 2024, arXiv
    2406.04312); random copies are the cutouts of CLIP guidance (Crowson et al. 2022, arXiv 2204.08583): what is near
    under small changes of view is what another network, or an eye, takes for the target, too. What else was tried is in
    docs/experiments.md.

    `Problem.preview` takes the place of D at the first level; what it shows is never the result. `start`, clean latents
    z₀ (N, C, h, w), takes the place of the first level: they are noised to σ = `level`, where all of the budget
    descends. A sample leaves at the first evaluation that finds ℓ ≤ `stop_at`; from then on its trace is NaN. A step
    from a gradient that is not finite is left out. Raises FeatspaceError for a target of zeros and if a sample never
    had a finite distance, UsageError for fewer than 2 evaluations and a `stop_at` of NaN.
    """
    if stop_at is not None and math.isnan(stop_at):
        raise UsageError("stop_at is NaN: it must be a number, a squared distance")
    if not (problem.targets != 0).any(1).all():
        raise FeatspaceError("a target feature is zero all over, which has no direction: decode another")
    timesteps = visits(problem.alphas_cumprod, evaluations, start is not None, level)
    z = problem.draw_noise()
    latents = (z if start is None else start).clone()
    going = torch.arange(len(z), device=z.device)
    record = Record(len(z), evaluations, callback)
    for index, t in enumerate(timesteps):
        alpha, count, recurrence = float(problem.alphas_cumprod[t]), timesteps.count(t), index - timesteps.index(t)
        noise = (1 - alpha) ** 0.5
        preview = None if t == timesteps[-1] else problem.preview
        if recurrence == 0:  # a level begins
            if index or start is not None:
                z = alpha**0.5 * latents + noise * (problem.draw_noise() if index else z)
            adam = _Adam(z)
        given, part = z.clone(), z[going].requires_grad_()
        clean = (part - noise * problem.predict_noise(part, t)) / alpha**0.5
        image = (problem.decode_latents if preview is None else preview)(clean)
        copied = index < (1 - ALONE) * evaluations
        loss, wanted = _losses(problem, image, part, going, copied)
        (gradient,) = torch.autograd.grad(wanted.sum(), part)
        rate = RATE + (LAST_RATE - RATE) * recurrence / max(1, count - 1)
        finite = adam.step(going, gradient, rate * noise)
        latents[going] = clean.detach()
        if preview is None:
            record.keep(image, loss, t, recurrence, going)
        record.add(t, recurrence, given, loss, None, finite, going, image)
        z[:] = record.step(z)
        if stop_at is not None and preview is None:
            going = going[~(loss <= stop_at)]
        if len(going) == 0:
            break
    return record.decoded(problem, latents)


def visits(alphas_cumprod: Tensor, evaluations: int, started: bool = False, level: float = LEVELS[-1]) -> list[int]:
    """The timesteps of a budget's evaluations: one half at the first of `LEVELS`, the other at σ = `level`.

    `alphas_cumprod` is the training schedule ᾱ, (T,). `started`: all are at `level`. Raises UsageError for fewer than 2
    evaluations.
    """
    if evaluations < 2:
        raise UsageError(f"evaluations is {evaluations}: it must be at least 2")
    first = 0 if started else evaluations // 2
    noisier, last = timestep_at(alphas_cumprod, LEVELS[0]), timestep_at(alphas_cumprod, level)
    return [max(noisier, last)] * first + [last] * (evaluations - first)


def timestep_at(alphas_cumprod: Tensor, sigma: float) -> int:
    """The timestep whose noise level σ_t = √((1 − ᾱ_t)/ᾱ_t) is nearest to `sigma` (Karras et al. 2022).

    `alphas_cumprod` is the training schedule ᾱ, (T,).
    """
    return int((((1 - alphas_cumprod) / alphas_cumprod).double().sqrt() - sigma).abs().argmin())


def _losses(problem: Problem, image: Tensor, z: Tensor, rows: Tensor, copied: bool) -> tuple[Tensor, Tensor]:
    """ℓ of the images of the samples `rows`, (n,), and L, whose gradient is descended."""
    feature, target = problem.encode(image), problem.targets[rows]
    loss = (feature.detach() - target).square().sum(1)
    wanted = polar_distance(feature, target)
    if copied and problem.copy is not None:
        wanted = (wanted + polar_distance(problem.encode(problem.copy(image, rows)), target)) / 2
    return loss, wanted + RANGE * _excess(image) + NORM * _surplus(z)


class _Adam:
    """Adam (Kingma and Ba 2015), a sample apart, each of its own steps alone."""

    def __init__(self, z: Tensor):
        self.z, self.steps = z, 0
        self.m, self.v = torch.zeros_like(z), torch.zeros_like(z)

    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Moves the samples `rows` (n,) of z, in place; returns where the gradient is finite, (n,): others stay."""
        finite = gradient.flatten(1).isfinite().all(1)
        gradient = torch.where(finite.view(-1, 1, 1, 1), gradient, 0)
        self.steps += 1
        self.m[rows] = BETAS[0] * self.m[rows] + (1 - BETAS[0]) * gradient
        self.v[rows] = BETAS[1] * self.v[rows] + (1 - BETAS[1]) * gradient.square()
        m, v = self.m[rows] / (1 - BETAS[0] ** self.steps), self.v[rows] / (1 - BETAS[1] ** self.steps)
        step = rate * m / (v.sqrt() + torch.finfo(gradient.dtype).tiny)
        self.z[rows] -= torch.where(finite.view(-1, 1, 1, 1), step, 0)
        return finite


def polar_distance(features: Tensor, targets: Tensor) -> Tensor:
    """ℓ̂ = (ρ − 1)² + 2·(1 − cos θ) of features f (N, D) from targets f* (N, D), (N,); ρ = ‖f‖/‖f*‖, θ their angle.

    ℓ/‖f*‖² is (ρ − 1)² + 2ρ·(1 − cos θ): the same near the target, where ρ is 1. Far from it that can be lowered by a
    shorter feature in place of a truer one, and units that ReLU has switched off have no gradient that leads back.
    """
    lengths, wanted = features.norm(dim=1), targets.norm(dim=1)
    cosine = (features * targets).sum(1) / (wanted * lengths.clamp_min(SHORTEST * wanted))
    return (lengths / wanted - 1).square() + 2 * (1 - cosine)


def _excess(images: Tensor) -> Tensor:
    """How far images (N, 3, H, W) leave [−1, 1]: the mean of squares, (N,)."""
    return (images.abs() - 1).clamp_min(0).square().flatten(1).mean(1)


def _surplus(latents: Tensor) -> Tensor:
    """How much longer than noise latents (N, C, h, w) are: the mean of squares above 1, (N,)."""
    return (latents.square().flatten(1).mean(1) - 1).clamp_min(0)

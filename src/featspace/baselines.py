"""Other training-free ways from a feature to an image, each in a few lines, to compare the presets with.

Symbols are those of `fast`: g is a gradient of ℓ, ĝ = g/‖g‖, n the size of a latent, w the weight that each method is
tuned over, s_t = √(1 − ᾱ_t). A method spends its evaluations on a `Problem`, which remembers the nearest image seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from featspace.guidance import Schedule, guided_decode

PUBLISHED = 12_960
"""Guided evaluations of an image in the paper's schedule."""


@dataclass
class Problem:
    """Three networks, a source of noise and a training schedule, as `guidance.guided_decode` takes them."""

    predict_noise: Callable[[torch.Tensor, int], torch.Tensor]
    decode_latents: Callable[[torch.Tensor], torch.Tensor]
    distance: Callable[[torch.Tensor], torch.Tensor]
    draw_noise: Callable[[], torch.Tensor]
    alpha_bars: torch.Tensor
    clip_std: float | None = 3.0
    images: torch.Tensor | None = None
    distances: torch.Tensor | None = None

    def keep(self, images: torch.Tensor, distances: torch.Tensor) -> None:
        """Remembers each sample's nearest image."""
        images, distances = images.detach(), distances.detach()
        if self.images is None:
            self.images, self.distances = images, distances
        nearer = distances < self.distances
        self.images = torch.where(nearer[:, None, None, None], images, self.images)
        self.distances = torch.where(nearer, distances, self.distances)

    def at(self, z: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ℓ of the estimate at z_t, its gradient there (through the UNet), ε, and ẑ₀."""
        bar = float(self.alpha_bars[t])
        z = z.detach().requires_grad_()
        eps = self.predict_noise(z, t)
        clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
        image = self.decode_latents(clean)
        loss = self.distance(image)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        self.keep(image, loss)
        return loss.detach(), gradient, eps.detach(), clean.detach()

    def at_clean(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ℓ of a clean latent and its gradient there, without the UNet."""
        z = z.detach().requires_grad_()
        image = self.decode_latents(z)
        loss = self.distance(image)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        self.keep(image, loss)
        return loss.detach(), gradient

    def levels(self, steps: int) -> list[tuple[int, float, float]]:
        """Timestep, ᾱ and the next ᾱ of each step, spaced evenly in t as all these methods have them."""
        schedule = Schedule.spaced(self.alpha_bars, steps)
        return list(zip(schedule.timesteps, schedule.alpha_bars, [*schedule.alpha_bars[1:], 1.0], strict=True))


def paper(problem: Problem, evaluations: int, weight: float, emphasis: bool = True) -> None:
    """The paper's update; a third of the evaluations at the first tenth of the steps, or each step twice."""
    if evaluations == PUBLISHED:
        schedule = Schedule.spaced(problem.alpha_bars)
    elif emphasis:
        steps = max(2, round(evaluations / 2.6))
        first = max(1, steps // 10)
        extra = round((evaluations - 2 * (steps - first)) / first)
        schedule = Schedule.spaced(problem.alpha_bars, steps, 2, first, extra)
    else:
        schedule = Schedule.spaced(problem.alpha_bars, evaluations // 2, 2, 0, 1)
    result = guided_decode(
        problem.predict_noise,
        problem.decode_latents,
        problem.distance,
        problem.draw_noise,
        schedule,
        weight,
        problem.clip_std,
    )
    problem.keep(result.images, result.distances)


def paper_even(problem: Problem, evaluations: int, weight: float) -> None:
    """The paper's update without early-step emphasis."""
    paper(problem, evaluations, weight, emphasis=False)


def universal(problem: Problem, evaluations: int, weight: float) -> None:
    """Universal guidance (Bansal et al. 2023, arXiv 2302.07121, forward guidance): ε̂ = ε + w·s_t·∇ℓ, each step twice.

    ℓ is taken relative to its first value, as its scale differs between encoders.
    """
    z, first = problem.draw_noise(), None
    for t, bar, following in problem.levels(evaluations // 2):
        for repeat in range(2):
            loss, gradient, eps, _ = problem.at(z, t)
            first = loss if first is None else first
            eps = eps + weight * (1 - bar) ** 0.5 * _relative(gradient, first)
            clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
            z = following**0.5 * clean + (1 - following) ** 0.5 * eps
            if repeat == 0:
                beta = 1 - bar / following
                z = (1 - beta) ** 0.5 * z + beta**0.5 * problem.draw_noise()


def mpgd(problem: Problem, evaluations: int, weight: float) -> None:
    """Manifold-preserving guidance (He et al. 2024, arXiv 2311.16424): ẑ₀ ← ẑ₀ − w·s_t·√n·ĝ, no UNet backward."""
    z = problem.draw_noise()
    for t, bar, following in problem.levels(evaluations):
        with torch.no_grad():
            eps = problem.predict_noise(z, t)
        clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
        _, gradient = problem.at_clean(clean)
        clean = clean - weight * (1 - bar) ** 0.5 * _unit(gradient)
        z = following**0.5 * clean + (1 - following) ** 0.5 * eps


def dsg(problem: Problem, evaluations: int, weight: float) -> None:
    """Spherical guidance (Yang et al. 2024, arXiv 2402.03201): the noise turned toward −ĝ by w, of the same length."""
    z = problem.draw_noise()
    for t, bar, following in problem.levels(evaluations):
        _, gradient, eps, clean = problem.at(z, t)
        beta = 1 - bar / following
        sigma = (beta * (1 - following) / (1 - bar)) ** 0.5
        noise = problem.draw_noise()
        turned = noise + weight * (-_unit(gradient) - noise)
        mean = following**0.5 * clean + max(0.0, 1 - following - sigma**2) ** 0.5 * eps
        z = mean + sigma * _unit(turned)


def tfg(problem: Problem, evaluations: int, weight: float) -> None:
    """TFG (Ye et al. 2024, arXiv 2409.15761): a step on z_t through the UNet, then three on ẑ₀, at each level."""
    z = problem.draw_noise()
    for t, bar, following in problem.levels(max(2, evaluations // 4)):
        _, gradient, eps, clean = problem.at(z, t)
        for _ in range(3):
            clean = clean - weight * (1 - bar) ** 0.5 / 3 * _unit(problem.at_clean(clean)[1])
        clean = clean - weight * (1 - bar) ** 0.5 * _unit(gradient)
        z = following**0.5 * clean + (1 - following) ** 0.5 * eps


def latent_adam(problem: Problem, evaluations: int, weight: float) -> None:
    """No prior at all: Adam on the clean latent from noise, its step falling from w to w/10."""
    z = problem.draw_noise()
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    for i in range(evaluations):
        gradient = _unit(problem.at_clean(z)[1])
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        rate = weight * 0.1 ** (i / max(1, evaluations - 1))
        z = z - rate * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.99 ** (i + 1))).sqrt() + 1e-8)


@torch.no_grad()
def best_of(problem: Problem, evaluations: int, weight: float) -> None:
    """No guidance: the nearest of as many samples of the prior as there are evaluations, by DDIM in 20 steps."""
    for _ in range(evaluations):
        z = problem.draw_noise()
        for t, bar, following in problem.levels(20):
            eps = problem.predict_noise(z, t)
            clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
            z = following**0.5 * clean + (1 - following) ** 0.5 * eps
        image = problem.decode_latents(z)
        problem.keep(image, problem.distance(image))


METHODS: dict[str, tuple[Callable[[Problem, int, float], None], tuple[float, ...]]] = {
    "paper": (paper, (0.25, 0.5, 1.0)),
    "paper_even": (paper_even, (0.25, 0.5, 1.0)),
    "universal": (universal, (16.0, 64.0, 256.0)),
    "mpgd": (mpgd, (0.05, 0.2, 0.8)),
    "dsg": (dsg, (0.1, 0.3, 1.0)),
    "tfg": (tfg, (0.1, 0.4, 1.6)),
    "latent_adam": (latent_adam, (0.03, 0.1, 0.3)),
    "best_of": (best_of, (0.0,)),
}
"""Each method with the weights that it is tuned over."""


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    """ĝ·√n: the gradient at the length of a standard normal; zero where it is not finite."""
    rows = gradient.flatten(1)
    scale = rows.shape[1] ** 0.5 / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return torch.where(rows.isfinite().all(1, keepdim=True), rows * scale, 0).view_as(gradient)


def _relative(gradient: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return gradient / first.view(-1, *(1,) * (gradient.ndim - 1))

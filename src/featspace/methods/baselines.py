"""Other training-free ways from a feature to an image, each in a few lines, to compare the presets with.

Symbols are those of `guidance`: g is a gradient of ℓ, ĝ = g/‖g‖, n the size of what it is taken at, w the weight that
each method is tuned over, s_t = √(1 − ᾱ_t). A method spends its evaluations on a `Problem`, which remembers the nearest
image seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from featspace.methods.self_recurrence import NEVER_FINITE, Schedule, guided_decode
from featspace.utils.errors import FeatspaceError


@dataclass
class Problem:
    """Features to decode, a sample each: what every method is given, and the nearest images that it has seen.

    `predict_noise` and `decode_latents` are those of `guidance.guided_decode`; `encode(x)` is f(x), (N, D),
    differentiable, `targets` f*, (N, D); `is_map` says that features tell where things are. Each sample draws from its
    own of the `generators`, so that it does not depend on the others.
    """

    predict_noise: Callable[[torch.Tensor, int], torch.Tensor]
    decode_latents: Callable[[torch.Tensor], torch.Tensor]
    encode: Callable[[torch.Tensor], torch.Tensor]
    targets: torch.Tensor
    alpha_bars: torch.Tensor
    generators: Sequence[torch.Generator]
    latent_shape: tuple[int, ...]
    image_shape: tuple[int, ...]
    clip_std: float | None = 3.0
    is_map: bool = False
    device: torch.device | str = "cpu"
    best: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, init=False)
    """The nearest image of each sample, (N, 3, H, W) in about [−1, 1], and its ℓ, (N,)."""

    def draw_noise(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Standard normal noise (N, *shape), by default of a latent's shape."""
        rows = [torch.randn(shape or self.latent_shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device)

    def distance(self, images: torch.Tensor) -> torch.Tensor:
        """ℓ of images (N, 3, H, W), (N,)."""
        return (self.encode(images) - self.targets).square().sum(1)

    def keep(self, images: torch.Tensor, distances: torch.Tensor) -> None:
        """Remembers each sample's nearest image; one of a distance that is not finite is never the nearest."""
        images, distances = images.detach(), distances.detach().nan_to_num(torch.inf, torch.inf, torch.inf)
        if self.best is None:
            self.best = images, distances
        nearer = distances < self.best[1]
        images = torch.where(nearer[:, None, None, None], images, self.best[0])
        self.best = images, torch.where(nearer, distances, self.best[1])

    def nearest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and distances as `best`. Raises FeatspaceError if a sample never had a finite distance."""
        if self.best is None or not self.best[1].isfinite().all():
            raise FeatspaceError(NEVER_FINITE)
        return self.best

    def at(self, z: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ℓ of the estimate at z_t, its gradient there (through the UNet), ε, and ẑ₀."""
        bar = float(self.alpha_bars[t])
        z = z.detach().requires_grad_()
        eps = self.predict_noise(z, t)
        clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
        loss, gradient = self._gradient(z, self.decode_latents(clean))
        return loss, gradient, eps.detach(), clean.detach()

    def at_clean(self, z: torch.Tensor) -> torch.Tensor:
        """The gradient of ℓ at a clean latent, without the UNet."""
        z = z.detach().requires_grad_()
        return self._gradient(z, self.decode_latents(z))[1]

    def at_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The gradient of ℓ at images, without UNet and autoencoder."""
        images = images.detach().requires_grad_()
        return self._gradient(images, images)[1]

    def _gradient(self, place: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.distance(images)
        (gradient,) = torch.autograd.grad(loss.sum(), place)
        self.keep(images, loss)
        return loss.detach(), gradient

    def levels(self, steps: int) -> list[tuple[int, float, float]]:
        """Timestep, ᾱ and the next ᾱ of each step, spaced evenly in t as all these methods have them."""
        schedule = Schedule.spaced(self.alpha_bars, steps)
        return list(zip(schedule.timesteps, schedule.alpha_bars, [*schedule.alpha_bars[1:], 1.0], strict=True))


def paper(problem: Problem, evaluations: int, weight: float, emphasis: bool = True) -> None:
    """The paper's update; a third of the evaluations at the first tenth of the steps, or each step twice."""
    if emphasis:
        steps = max(2, round(evaluations / 2.6))
        first = max(1, steps // 10)
        extra = (evaluations - 2 * (steps - first)) // first
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
        clean = clean - weight * (1 - bar) ** 0.5 * _unit(problem.at_clean(clean))
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
            clean = clean - weight * (1 - bar) ** 0.5 / 3 * _unit(problem.at_clean(clean))
        clean = clean - weight * (1 - bar) ** 0.5 * _unit(gradient)
        z = following**0.5 * clean + (1 - following) ** 0.5 * eps


def latent_adam(problem: Problem, evaluations: int, weight: float) -> None:
    """No prior: Adam on the clean latent from noise, its step falling from w to w/10."""
    _adam(problem.draw_noise(), problem.at_clean, evaluations, weight)


def pixel_adam(problem: Problem, evaluations: int, weight: float) -> None:
    """Neither prior nor autoencoder, the adversarial extreme: Adam on the pixels, from faint noise around gray.

    Pixels are in [−1, 1] and are kept there; the step falls from w to w/10.
    """
    _adam(0.1 * problem.draw_noise(problem.image_shape), problem.at_pixels, evaluations, weight, limit=1.0)


def _adam(
    x: torch.Tensor,
    gradient: Callable[[torch.Tensor], torch.Tensor],
    evaluations: int,
    rate: float,
    limit: float = torch.inf,
) -> None:
    optimizer = torch.optim.Adam([x], betas=(0.9, 0.99))  # works an element apart, hence a sample apart
    for i in range(evaluations):
        x.grad = _unit(gradient(x))
        optimizer.param_groups[0]["lr"] = rate * 0.1 ** (i / max(1, evaluations - 1))
        optimizer.step()
        x.clamp_(-limit, limit)


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


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    """ĝ·√n: the gradient at the length of a standard normal; zero where it is not finite."""
    rows = gradient.flatten(1)
    scale = rows.shape[1] ** 0.5 / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return torch.where(rows.isfinite().all(1, keepdim=True), rows * scale, 0).view_as(gradient)


def _relative(gradient: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return gradient / first.view(-1, *(1,) * (gradient.ndim - 1))

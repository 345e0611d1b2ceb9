"""Other training-free ways from a feature to an image, each in a few lines, to compare the presets with.

Symbols are those of `problem`: g is a gradient of ℓ, ĝ = g/‖g‖, n the size of what it is taken at, w the weight that
each method is tuned over, s_t = √(1 − ᾱ_t).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from featspace.methods.problem import Callback, Decoded, Problem, Record
from featspace.methods.self_recurrence import Schedule


class _Search:
    """A problem, and the record of what was seen of it."""

    def __init__(self, problem: Problem, evaluations: int, callback: Callback | None):
        self.problem = problem
        self.record = Record(len(problem.targets), evaluations, callback)

    def at(self, z: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ℓ of the estimate at z_t, its gradient there (through the UNet), ε, and ẑ₀."""
        alpha = float(self.problem.alphas_cumprod[t])
        z = z.detach().requires_grad_()
        eps = self.problem.predict_noise(z, t)
        clean = (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        loss, gradient = self._gradient(z, self.problem.decode_latents(clean), t)
        return loss, gradient, eps.detach(), clean.detach()

    def at_clean(self, z: Tensor, t: int = 0) -> Tensor:
        """The gradient of ℓ at a clean latent, without the UNet."""
        z = z.detach().requires_grad_()
        return self._gradient(z, self.problem.decode_latents(z), t)[1]

    def at_pixels(self, images: Tensor) -> Tensor:
        """The gradient of ℓ at images, without UNet and autoencoder."""
        images = images.detach().requires_grad_()
        return self._gradient(images, images, 0)[1]

    def _gradient(self, place: Tensor, images: Tensor, t: int) -> tuple[Tensor, Tensor]:
        loss = self.problem.distance(images)
        (gradient,) = torch.autograd.grad(loss.sum(), place)
        loss = loss.detach()
        self.record.keep(images, loss, t, 0)
        finite = gradient.flatten(1).isfinite().all(1)
        self.record.add(t, 0, place.detach(), loss, None, finite, images=images)
        return loss, gradient

    def levels(self, steps: int) -> list[tuple[int, float, float]]:
        """Timestep, ᾱ and the next ᾱ of each step, spaced evenly in t as all these methods have them."""
        schedule = Schedule.spaced(self.problem.alphas_cumprod, steps)
        alphas = schedule.alphas_cumprod
        return list(zip(schedule.timesteps, alphas, [*alphas[1:], 1.0], strict=True))


def universal(
    problem: Problem, *, evaluations: int = 128, weight: float = 64.0, callback: Callback | None = None
) -> Decoded:
    """Universal guidance (Bansal et al. 2023, arXiv 2302.07121, forward guidance): ε̂ = ε + w·s_t·∇ℓ, each step twice.

    ℓ is taken relative to its first value, as its scale differs between encoders.
    """
    search = _Search(problem, evaluations, callback)
    z, first = problem.draw_noise(), None
    for t, alpha, following in search.levels(evaluations // 2):
        for repeat in range(2):
            loss, gradient, eps, _ = search.at(z, t)
            first = loss if first is None else first
            eps = eps + weight * (1 - alpha) ** 0.5 * (gradient / first.view(-1, *(1,) * (gradient.ndim - 1)))
            clean = (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5
            z = following**0.5 * clean + (1 - following) ** 0.5 * eps
            if repeat == 0:
                beta = 1 - alpha / following
                z = (1 - beta) ** 0.5 * z + beta**0.5 * problem.draw_noise()
            z = search.record.step(z)
    return search.record.decoded(problem, z)


def mpgd(problem: Problem, *, evaluations: int = 128, weight: float = 0.4, callback: Callback | None = None) -> Decoded:
    """Manifold-preserving guidance (He et al. 2024, arXiv 2311.16424): ẑ₀ ← ẑ₀ − w·s_t·√n·ĝ, no UNet backward."""
    search, z = _Search(problem, evaluations, callback), problem.draw_noise()
    for t, alpha, following in search.levels(evaluations):
        with torch.no_grad():
            eps = problem.predict_noise(z, t)
        clean = (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        clean = clean - weight * (1 - alpha) ** 0.5 * _unit(search.at_clean(clean, t))
        z = search.record.step(following**0.5 * clean + (1 - following) ** 0.5 * eps)
    return search.record.decoded(problem, z)


def dsg(problem: Problem, *, evaluations: int = 128, weight: float = 0.2, callback: Callback | None = None) -> Decoded:
    """Spherical guidance (Yang et al. 2024, arXiv 2402.03201): the noise turned toward −ĝ by w, of the same length."""
    search, z = _Search(problem, evaluations, callback), problem.draw_noise()
    for t, alpha, following in search.levels(evaluations):
        _, gradient, eps, clean = search.at(z, t)
        beta = 1 - alpha / following
        sigma = (beta * (1 - following) / (1 - alpha)) ** 0.5
        noise = problem.draw_noise()
        turned = noise + weight * (-_unit(gradient) - noise)
        mean = following**0.5 * clean + max(0.0, 1 - following - sigma**2) ** 0.5 * eps
        z = search.record.step(mean + sigma * _unit(turned))
    return search.record.decoded(problem, z)


def tfg(problem: Problem, *, evaluations: int = 128, weight: float = 0.4, callback: Callback | None = None) -> Decoded:
    """TFG (Ye et al. 2024, arXiv 2409.15761): a step on z_t through the UNet, then three on ẑ₀, at each level."""
    steps = max(2, evaluations // 4)
    search, z = _Search(problem, max(evaluations, 4 * steps), callback), problem.draw_noise()
    for t, alpha, following in search.levels(steps):
        _, gradient, eps, clean = search.at(z, t)
        for _ in range(3):
            clean = clean - weight * (1 - alpha) ** 0.5 / 3 * _unit(search.at_clean(clean, t))
        clean = clean - weight * (1 - alpha) ** 0.5 * _unit(gradient)
        z = search.record.step(following**0.5 * clean + (1 - following) ** 0.5 * eps)
    return search.record.decoded(problem, z)


def latent_adam(
    problem: Problem, *, evaluations: int = 128, weight: float = 0.3, callback: Callback | None = None
) -> Decoded:
    """No prior: Adam on the clean latent from noise, its step falling from w to w/10."""
    search, z = _Search(problem, evaluations, callback), problem.draw_noise()
    return search.record.decoded(problem, _adam(z, search, search.at_clean, evaluations, weight))


def pixel_adam(
    problem: Problem, *, evaluations: int = 128, weight: float = 0.03, callback: Callback | None = None
) -> Decoded:
    """Neither prior nor autoencoder, the adversarial extreme: Adam on the pixels, from faint noise around gray.

    Pixels are in [−1, 1] and are kept there; the step falls from w to w/10. The last latents are the last images.
    """
    search, x = _Search(problem, evaluations, callback), 0.1 * problem.draw_noise(problem.image_shape)
    x = _adam(x, search, search.at_pixels, evaluations, weight, limit=1.0)
    return search.record.decoded(problem, x, x)


def best_of(problem: Problem, *, evaluations: int = 128, callback: Callback | None = None) -> Decoded:
    """No guidance: the nearest of as many samples of the prior as there are evaluations, by DDIM in 20 steps."""
    search = _Search(problem, evaluations, callback)
    with torch.no_grad():
        for _ in range(evaluations):
            z = problem.draw_noise()
            for t, alpha, following in search.levels(20):
                eps = problem.predict_noise(z, t)
                clean = (z - (1 - alpha) ** 0.5 * eps) / alpha**0.5
                z = following**0.5 * clean + (1 - following) ** 0.5 * eps
            image = problem.decode_latents(z)
            loss = problem.distance(image)
            search.record.keep(image, loss, 0, 0)
            search.record.add(0, 0, z, loss, images=image)
            z = search.record.step(z)
    return search.record.decoded(problem, z)


def _adam(
    x: Tensor,
    search: _Search,
    gradient: Callable[[Tensor], Tensor],
    evaluations: int,
    rate: float,
    limit: float = torch.inf,
) -> Tensor:
    optimizer = torch.optim.Adam([x], betas=(0.9, 0.99))  # works an element apart, hence a sample apart
    for i in range(evaluations):
        x.grad = _unit(gradient(x))
        optimizer.param_groups[0]["lr"] = rate * 0.1 ** (i / max(1, evaluations - 1))
        optimizer.step()
        x.clamp_(-limit, limit)
        x[:] = search.record.step(x)
    return x


def _unit(gradient: Tensor) -> Tensor:
    """ĝ·√n: the gradient at the length of a standard normal; zero where it is not finite."""
    rows = gradient.flatten(1)
    scale = rows.shape[1] ** 0.5 / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return torch.where(rows.isfinite().all(1, keepdim=True), rows * scale, 0).view_as(gradient)

"""The preset `fast`: the guided decoder as one descent, momentum through all noise levels (`guidance` is the paper's).

Symbols are those of `guidance`: ε, z_t, ẑ₀, x̂ = D(ẑ₀), f, f*, ℓ(x) = ‖f(x) − f*‖², ᾱ_t; and σ_t = √((1 − ᾱ_t)/ᾱ_t), the
noise level in the coordinates u = z_t/√ᾱ_t (Karras et al. 2022, arXiv 2206.00364), in which u = z₀ + σ_t·noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from featspace.errors import FeatspaceError, UsageError
from featspace.guidance import NEVER_FINITE, Decoded, Evaluation, nearest

FINEST = 0.1
"""σ of the last level: finer noise is below what the decoded image shows."""
SPACING = 3.0
"""ρ: levels are evenly spaced in σ^(1/ρ) (Karras et al. 2022, eq. 5)."""
B1, B2, EPS = 0.8, 0.95, 1e-8
"""Adam's β₁, β₂ and ε (Kingma and Ba 2015); short memories, as the landscape changes from level to level."""
RATE = 0.1
"""λ at 128 evaluations: the share of the noise that an evaluation moves each element of u by."""
PREVIEW = 1.0
"""σ above which a small autoencoder, where there is one, shows enough of the clean image."""
RANGE = 10.0
"""κ: the weight of pixels beyond [−1, 1], which saving clamps, so that ℓ alone would never bring them back."""


def noise_levels(alpha_bars: torch.Tensor, evaluations: int) -> list[int]:
    """The training timestep of each evaluation, from the noisiest down to σ = 0.1, evenly spaced in σ^(1/3).

    `alpha_bars` is the training schedule ᾱ, (T,). Where levels are finer than the schedule, a timestep is repeated.
    Raises UsageError for fewer than 2 evaluations.
    """
    if evaluations < 2:
        raise UsageError(f"evaluations is {evaluations}: it must be at least 2")
    sigmas = ((1 - alpha_bars) / alpha_bars).double().sqrt()
    ends = sigmas[-1] ** (1 / SPACING), max(FINEST, float(sigmas[0])) ** (1 / SPACING)
    wanted = torch.linspace(*map(float, ends), evaluations, dtype=torch.float64) ** SPACING
    return (sigmas[None] - wanted[:, None].to(sigmas.device)).abs().argmin(1).tolist()


def step_size(evaluations: int) -> float:
    """λ for a budget: fewer steps are longer, by the square root of how many fewer, up to double."""
    return RATE * min(2.0, (128 / evaluations) ** 0.5)


def fast_decode(
    predict_noise: Callable[[torch.Tensor, int], torch.Tensor],
    decode_latents: Callable[[torch.Tensor], torch.Tensor],
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    draw_noise: Callable[[], torch.Tensor],
    alpha_bars: torch.Tensor,
    evaluations: int = 128,
    stop_at: float | None = None,
    callback: Callable[[Evaluation], None] | None = None,
    preview: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Decoded:
    """Images whose features come to match their targets, in `evaluations` guided evaluations and one draw of noise.

    At each level σ (`noise_levels`), from u = z_T/√ᾱ_T on:

    1. ε = ε_θ(√ᾱ_t·u, t, c); ẑ₀ = u − σ·ε; x̂ = D(ẑ₀); g = ∇_u ℓ(x̂)·(1 + κ·e(x̂)), through encoder, VAE decoder and
       UNet, where e(x̂) is the mean of max(|x̂| − 1, 0)² over the pixels.
    2. m ← β₁·m + (1 − β₁)·g/‖g‖; v ← β₂·v + (1 − β₂)·(g/‖g‖)², elementwise (Adam's moments, of unit gradients).
    3. u ← u − λ·σ·m̂/√v̂ + (σ′ − σ)·ε: Adam's step, in proportion to the noise, and DDIM's (Song et al. 2021, with η = 0)
       to the next level σ′.

    What it keeps of the paper's schedule is the gradient through the denoiser, which turns feature errors into what the
    prior can say. What it leaves out: the renewed noise, which undoes each correction; the steps of one length, which
    overshoot late; the second decoding. The nearest x̂ seen is the result.

    Tried and left out, as at the same budget they came no nearer: fresh noise between levels, small shifts of x̂ before
    the encoder, ending with Adam on the clean latent without the UNet. L-BFGS there came nearer, but to images that the
    prior and a judging encoder find less natural; steps along the plain momentum instead of Adam's saturate the image.

    `distance(x, rows)` is ℓ of images x (n, 3, H, W), n ≤ N, of the samples `rows` (n,); the other functions are those
    of `guidance.guided_decode`, but that noise is drawn once. `preview(z)`, a cheaper D such as a tiny autoencoder's,
    takes its place while σ > 1; what it shows is never the result. A sample leaves the batch at the first evaluation
    that finds ℓ ≤ `stop_at`; from then on its trace is NaN. A sample whose gradient is not finite is left unguided in
    that evaluation. Raises FeatspaceError if a sample never had a finite distance, UsageError for fewer than 2
    evaluations.
    """
    timesteps = noise_levels(alpha_bars, evaluations)
    bars = [float(alpha_bars[t]) for t in timesteps]
    sigmas = [((1 - bar) / bar) ** 0.5 for bar in bars]
    rate = step_size(evaluations)
    u = draw_noise() / bars[0] ** 0.5
    m, v, latents = torch.zeros_like(u), torch.zeros_like(u), torch.zeros_like(u)
    unguided = torch.zeros(len(u), dtype=torch.int64, device=u.device)
    spent, best, trace, going = torch.zeros_like(unguided), None, [], torch.arange(len(u), device=u.device)
    for index, (t, bar, sigma) in enumerate(zip(timesteps, bars, sigmas, strict=True)):
        z = bar**0.5 * u
        part = z[going].requires_grad_()
        eps = predict_noise(part, t)
        clean = part / bar**0.5 - sigma * eps
        coarse = preview is not None and sigma > PREVIEW
        image = (preview if coarse else decode_latents)(clean)
        loss = distance(image, going)
        (gradient,) = torch.autograd.grad((loss * (1 + RANGE * _excess(image))).sum(), part)
        clean, eps, image, loss = clean.detach(), eps.detach(), image.detach(), loss.detach()
        with torch.no_grad():
            unit, finite = _unit(gradient)
            m[going] = B1 * m[going] + (1 - B1) * unit
            v[going] = B2 * v[going] + (1 - B2) * unit**2
            step = m[going] / (1 - B1 ** (index + 1)) / ((v[going] / (1 - B2 ** (index + 1))).sqrt() + EPS)
            moved = clean - rate * sigma * step
            u[going] = moved + sigmas[min(index + 1, evaluations - 1)] * eps
            done = loss <= (-torch.inf if stop_at is None or coarse else stop_at)
            latents[going] = torch.where(done.view(-1, 1, 1, 1), clean, moved)
            spent[going] += 1
            unguided[going] += ~finite
            recurrence = index - timesteps.index(t)
            best = best if coarse else _kept(best, going, image, loss, t, recurrence)
            after = torch.full((len(u),), torch.nan, dtype=loss.dtype, device=u.device)
            losses = after.clone()
            losses[going] = loss
            trace.append((t, losses, after))
            if callback is not None:
                guided = torch.ones_like(unguided, dtype=torch.bool)
                guided[going] = finite
                callback(Evaluation(index, t, recurrence, z, losses, after, guided))
            going = going[~done]
        if len(going) == 0:
            break
    if not torch.isfinite(best[1]).all():
        raise FeatspaceError(NEVER_FINITE)
    with torch.no_grad():
        last = decode_latents(latents)
        everyone = torch.arange(len(u), device=u.device)
        return Decoded(*best, last, distance(last, everyone), latents, spent, trace, unguided)


def _kept(best: tuple | None, going: torch.Tensor, *found) -> tuple[torch.Tensor, ...]:
    """The nearest seen of all samples, once the samples `going` have been seen anew (`guidance.nearest`)."""
    if best is None:
        return nearest(None, *found)
    for kept, now in zip(best, nearest([kept[going] for kept in best], *found), strict=True):
        kept[going] = now
    return best


def _excess(images: torch.Tensor) -> torch.Tensor:
    """How far images (N, 3, H, W) leave [−1, 1]: the mean of squares, (N,)."""
    return (images.abs() - 1).clamp_min(0).square().flatten(1).mean(1)


def _unit(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sample's gradient at length 1, 0 where it is not finite or 0; and where it is finite, (N,)."""
    rows = gradient.flatten(1)
    length = rows.norm(dim=1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    unit = torch.where(usable, rows / length, torch.zeros_like(rows))
    return unit.view_as(gradient), rows.isfinite().all(1)

"""The preset `fast`: noise optimization through a denoiser (`guidance` is the paper's own decoder).

Symbols are those of `guidance`: ε, z_t, estimated clean latent ẑ₀, x̂ = D(ẑ₀), f, f*, ℓ(x) = ‖f(x) − f*‖², ᾱ_t; and
σ_t = √((1 − ᾱ_t)/ᾱ_t), the noise level in the coordinates u = z_t/√ᾱ_t (Karras et al. 2022, arXiv 2206.00364), in which
u = z₀ + σ_t·noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from featspace.methods.self_recurrence import NEVER_FINITE, Decoded, Evaluation, nearest
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


def visits(alpha_bars: Tensor, evaluations: int, started: bool = False, level: float = LEVELS[-1]) -> list[int]:
    """The timesteps of a budget's evaluations: one half at the first of `LEVELS`, the other at σ = `level`.

    `alpha_bars` is the training schedule ᾱ, (T,). `started`: all are at `level`. Raises UsageError for fewer than 2
    evaluations.
    """
    if evaluations < 2:
        raise UsageError(f"evaluations is {evaluations}: it must be at least 2")
    first = 0 if started else evaluations // 2
    noisier, last = timestep_at(alpha_bars, LEVELS[0]), timestep_at(alpha_bars, level)
    return [max(noisier, last)] * first + [last] * (evaluations - first)


def fast_decode(
    predict_noise: Callable[[Tensor, int], Tensor],
    decode_latents: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    targets: Tensor,
    draw_noise: Callable[[], Tensor],
    alpha_bars: Tensor,
    evaluations: int = 128,
    copy: Callable[[Tensor, Tensor], Tensor] | None = None,
    stop_at: float | None = None,
    callback: Callable[[Evaluation], None] | None = None,
    preview: Callable[[Tensor], Tensor] | None = None,
    start: Tensor | None = None,
    level: float = LEVELS[-1],
) -> Decoded:
    """Images whose features come to match their targets, in `evaluations` guided evaluations.

    Each evaluation is at one level σ_t, of the two in `visits`:

    1. ε = ε_θ(z_t, t, c); ẑ₀ = (z_t − √(1−ᾱ_t)·ε)/√ᾱ_t; x̂ = D(ẑ₀).
    2. L = (ℓ̂(x̂) + ℓ̂(x̂′))/2 + κ′·e(x̂) + κ″·max(‖z_t‖²/n − 1, 0), where ℓ̂ is `polar_distance`, x̂′ a random copy
       of x̂ (a slightly smaller crop, mirrored half of the time), e(x̂) the mean of max(|x̂| − 1, 0)² over the pixels, n
       the size of z_t. The last evaluations do without the copy.
    3. z_t takes a step of Adam along ∇L, through encoder, VAE decoder and UNet.

    z_t is noise at first. At the first level, σ = 5, next to nothing of the image is settled: the descent chooses what
    is where. For the second half ẑ₀ goes to σ = 1 with new noise n, z_t = √ᾱ_t·ẑ₀ + √(1−ᾱ_t)·n, where the denoiser
    draws finer detail. Of all x̂ seen the one of the least ℓ is the result.

    To optimize the noise that a generator of one step starts from is ReNO's way (Eyring et al. 2024, arXiv
    2406.04312); random copies are the cutouts of CLIP guidance (Crowson et al. 2022, arXiv 2204.08583): what is near
    under small changes of view is what another network, or an eye, takes for the target, too. What else was tried is in
    docs/experiments.md.

    `encode(x)` is f(x), (n, D), of images x (n, 3, H, W); `targets` f* of each sample, (N, D); `copy(x, rows)` a random
    copy of each of the images of the samples `rows` (n,), None where there are none to take, as of features that say
    where things are; the other functions are those of `guidance.guided_decode`. `preview(z)`, a cheaper D such as a
    tiny autoencoder's, takes its place at the first level; what it shows is never the result. `start`, clean latents z₀
    (N, C, h, w), takes the place of the first level: they are noised to σ = `level`, where all of the budget descends.
    A sample leaves at the first evaluation that finds ℓ ≤ `stop_at`; from then on its trace is NaN. A step from a
    gradient that is not finite is left out. Raises FeatspaceError for a target of zeros and if a sample never had a
    finite distance, UsageError for fewer than 2 evaluations.
    """
    if not (targets != 0).any(1).all():
        raise FeatspaceError("a target feature is zero all over, which has no direction: decode another")
    planned = visits(alpha_bars, evaluations, start is not None, level)
    latents, best, trace = start, None, []
    z = draw_noise()
    unguided = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    spent, going = torch.zeros_like(unguided), torch.arange(len(z), device=z.device)
    for index, t in enumerate(planned):
        bar, count = float(alpha_bars[t]), planned.count(t)
        noise, recurrence = (1 - bar) ** 0.5, index - planned.index(t)
        coarse = preview is not None and t != planned[-1]
        if recurrence == 0:  # a level begins
            z = z if latents is None else bar**0.5 * latents + noise * (draw_noise() if index else z)
            m, v = torch.zeros_like(z), torch.zeros_like(z)
            latents = torch.zeros_like(z) if latents is None else latents.clone()
        given = z.clone()
        part = z[going].requires_grad_()
        clean = (part - noise * predict_noise(part, t)) / bar**0.5
        image = (preview if coarse else decode_latents)(clean)
        feature, target = encode(image), targets[going]
        loss = (feature.detach() - target).square().sum(1)
        wanted = polar_distance(feature, target)
        if copy is not None and index < (1 - ALONE) * evaluations:
            wanted = (wanted + polar_distance(encode(copy(image, going)), target)) / 2
        wanted = wanted + RANGE * _excess(image) + NORM * _surplus(part)
        (gradient,) = torch.autograd.grad(wanted.sum(), part)
        clean, image = clean.detach(), image.detach()
        finite = gradient.flatten(1).isfinite().all(1)
        gradient = torch.where(finite.view(-1, 1, 1, 1), gradient, 0)
        m[going] = BETAS[0] * m[going] + (1 - BETAS[0]) * gradient
        v[going] = BETAS[1] * v[going] + (1 - BETAS[1]) * gradient.square()
        rate = RATE + (LAST_RATE - RATE) * recurrence / max(1, count - 1)
        unbiased = m / (1 - BETAS[0] ** (recurrence + 1)), v / (1 - BETAS[1] ** (recurrence + 1))
        step = rate * noise * unbiased[0] / (unbiased[1].sqrt() + torch.finfo(z.dtype).tiny)
        z[going] -= torch.where(finite.view(-1, 1, 1, 1), step[going], 0)
        latents[going] = clean
        best = best if coarse else _kept(best, going, image, loss, t, recurrence)
        spent[going] += 1
        unguided[going] += ~finite
        after = torch.full((len(z),), torch.nan, dtype=loss.dtype, device=z.device)
        losses = after.clone()
        losses[going] = loss
        trace.append((t, losses, after))
        if callback is not None:
            guided = torch.ones_like(unguided, dtype=torch.bool)
            guided[going] = finite
            callback(Evaluation(index, t, recurrence, given, losses, after, guided))
        going = going[~(loss <= (-torch.inf if stop_at is None or coarse else stop_at))]
        if len(going) == 0:
            break
    if not torch.isfinite(best[1]).all():
        raise FeatspaceError(NEVER_FINITE)
    with torch.no_grad():
        last = decode_latents(latents)
        distances = (encode(last) - targets).square().sum(1)
        return Decoded(*best, last, distances, latents, spent, trace, unguided)


def polar_distance(features: Tensor, targets: Tensor) -> Tensor:
    """ℓ̂ = (ρ − 1)² + 2·(1 − cos θ) of features f (N, D) from targets f* (N, D), (N,); ρ = ‖f‖/‖f*‖, θ their angle.

    ℓ/‖f*‖² is (ρ − 1)² + 2ρ·(1 − cos θ): the same near the target, where ρ is 1. Far from it that can be lowered by a
    shorter feature in place of a truer one, and units that ReLU has switched off have no gradient that leads back.
    """
    lengths, wanted = features.norm(dim=1), targets.norm(dim=1)
    cosine = (features * targets).sum(1) / (wanted * lengths.clamp_min(SHORTEST * wanted))
    return (lengths / wanted - 1).square() + 2 * (1 - cosine)


def _kept(best: tuple | None, going: Tensor, *found) -> tuple[Tensor, ...]:
    """The nearest seen of all samples, once the samples `going` have been seen anew (`guidance.nearest`)."""
    if best is None:
        return tuple(kept.clone() for kept in nearest(None, *found))  # written into below
    for kept, now in zip(best, nearest([kept[going] for kept in best], *found), strict=True):
        kept[going] = now
    return best


def _excess(images: Tensor) -> Tensor:
    """How far images (N, 3, H, W) leave [−1, 1]: the mean of squares, (N,)."""
    return (images.abs() - 1).clamp_min(0).square().flatten(1).mean(1)


def _surplus(latents: Tensor) -> Tensor:
    """How much longer than noise latents (N, C, h, w) are: the mean of squares above 1, (N,)."""
    return (latents.square().flatten(1).mean(1) - 1).clamp_min(0)


def timestep_at(alpha_bars: torch.Tensor, sigma: float) -> int:
    """The timestep whose noise level σ_t = √((1 − ᾱ_t)/ᾱ_t) is nearest to `sigma`.

    `alpha_bars` is the training schedule ᾱ, (T,) (Karras et al. 2022, arXiv 2206.00364).
    """
    return int((((1 - alpha_bars) / alpha_bars).double().sqrt() - sigma).abs().argmin())

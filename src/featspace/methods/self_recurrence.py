"""The guided decoder: a target feature back into images, by guiding a diffusion prior (arXiv 2509.07936).

Symbols follow the paper: noise prediction ε, latent z_t, estimated clean latent ẑ₀, decoded image x̂, encoder f,
target feature f*, loss ℓ(x) = ‖f(x) − f*‖², guidance weight w, schedule β_t, α_t = 1 − β_t, ᾱ_t = Π α.
The method knows neither the networks nor the preprocessing: it takes three functions and works a sample apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from featspace.utils.errors import FeatspaceError, UsageError

NEVER_FINITE = "the feature distance was never finite: check the target feature and the encoder for NaN"


@dataclass(frozen=True)
class Schedule:
    """The steps of a decoding, from the noisiest to the clean one.

    `timesteps` are those of the prior's training; `alpha_bars` the ᾱ there; `betas` the noise that one step adds
    or removes, 1 − ᾱ_t/ᾱ_next (with every training step visited, the training β); `recurrences` the guided
    evaluations spent at each step (self-recurrence).
    """

    timesteps: list[int]
    alpha_bars: list[float]
    betas: list[float]
    recurrences: list[int]

    @property
    def evaluations(self) -> int:
        """Guided evaluations of one image."""
        return sum(self.recurrences)

    @classmethod
    def spaced(
        cls,
        alpha_bars: torch.Tensor,
        steps: int = 1000,
        recurrences: int = 8,
        emphasis_steps: int = 5,
        emphasis_recurrences: int = 1000,
    ) -> Schedule:
        """`steps` timesteps spread evenly over the training schedule `alpha_bars` (T,); its ends are included.

        The defaults are the paper's: all of 1000 steps, 8 evaluations each but 1000 at each of the first five
        (early-step emphasis), 12,960 in all. Raises UsageError for more steps than T or fewer than 2.
        """
        if not 2 <= steps <= len(alpha_bars):
            raise UsageError(f"steps is {steps}: it must be between 2 and the prior's {len(alpha_bars)} training steps")
        timesteps = torch.linspace(len(alpha_bars) - 1, 0, steps, dtype=torch.float64).round().long()
        kept = alpha_bars.double()[timesteps]
        following = torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)])
        repeats = [emphasis_recurrences if i < emphasis_steps else recurrences for i in range(steps)]
        return cls(timesteps.tolist(), kept.tolist(), (1 - kept / following).tolist(), repeats)


@dataclass(frozen=True)
class Evaluation:
    """What one guided evaluation saw, for a callback; tensors have one row a sample."""

    index: int
    timestep: int
    recurrence: int
    latents: torch.Tensor
    """z_t as it was given to the noise prediction, (N, C, h, w)."""
    distance_before: torch.Tensor
    """ℓ(x̂) of the unguided estimate, (N,)."""
    distance_after: torch.Tensor
    """ℓ(x̂) once the noise prediction was corrected, (N,); NaN from the preset `fast`, which does not decode it."""
    guided: torch.Tensor
    """False where the gradient was not finite, so that the correction was left out, (N,)."""


@dataclass
class Decoded:
    """Images decoded from features; every tensor has one row a sample."""

    images: torch.Tensor
    """Of all images seen, the one nearest to the target feature, (N, 3, H, W), in about [−1, 1]."""
    distances: torch.Tensor
    """Its squared Euclidean distance, (N,)."""
    timesteps: torch.Tensor
    """Where it was seen, (N,)."""
    recurrences: torch.Tensor
    """The evaluation at that step it was seen in, (N,); half a step more means after the correction."""
    last_images: torch.Tensor
    """The image of the last latent."""
    last_distances: torch.Tensor
    latents: torch.Tensor
    """The last latent, (N, C, h, w)."""
    evaluations: torch.Tensor
    """Guided evaluations spent, (N,)."""
    trace: list[tuple[int, torch.Tensor, torch.Tensor]] = field(repr=False)
    """Timestep, distance before and distance after, of each evaluation; NaN where there was none."""
    unguided: torch.Tensor
    """Evaluations left unguided because the gradient was not finite, (N,)."""


def guided_decode(
    predict_noise: Callable[[torch.Tensor, int], torch.Tensor],
    decode_latents: Callable[[torch.Tensor], torch.Tensor],
    distance: Callable[[torch.Tensor], torch.Tensor],
    draw_noise: Callable[[], torch.Tensor],
    schedule: Schedule,
    weight: float = 4.0,
    clip_std: float | None = 3.0,
    callback: Callable[[Evaluation], None] | None = None,
) -> Decoded:
    """Images whose features come to match their targets: the paper's update with self-recurrence (its Section 3).

    `predict_noise(z, t)` is ε_θ(z_t, t, c); `decode_latents(z)` the image D(z); `distance(x)` ℓ(x), (N,),
    differentiable; `draw_noise()` a fresh standard normal (N, C, h, w), a sample from a generator of its own. It is
    called for z_T, then in each evaluation for the ancestral noise (not at the last step) and for the re-noising (not
    in a step's last evaluation). `weight` 0 is the plain ancestral sampler. `clip_std` is κ; None clamps nothing.

    Raises FeatspaceError if a sample never had a finite distance. A sample whose gradient is not finite is left
    unguided in that evaluation.
    """
    z, best, losses = draw_noise(), None, None
    unguided = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    for index, t, recurrence, repeats, alpha_bar, beta in _visits(schedule):
        z = z.detach().requires_grad_()
        eps = predict_noise(z, t)
        image = decode_latents(_clean(z, eps, alpha_bar))
        before = distance(image)
        (gradient,) = torch.autograd.grad(before.sum(), z)
        z, eps, image, before = z.detach(), eps.detach(), image.detach(), before.detach()
        with torch.no_grad():
            finite = gradient.flatten(1).isfinite().all(1)
            unguided += ~finite
            corrected_eps = eps + weight * conditioned(gradient, eps, clip_std)
            clean = _clean(z, corrected_eps, alpha_bar)
            corrected = decode_latents(clean)
            after = distance(corrected)
            best = nearest(best, image, before, t, recurrence)
            best = nearest(best, corrected, after, t, recurrence + 0.5)
            losses = noted(losses, schedule.evaluations, index, before, after)
            if callback is not None:
                callback(Evaluation(index, t, recurrence, z, before, after, finite))
            is_last_step = t == schedule.timesteps[-1]
            z = clean if is_last_step else _ancestral(z, corrected_eps, alpha_bar, beta) + beta**0.5 * draw_noise()
            if recurrence < repeats - 1:
                z = (1 - beta) ** 0.5 * z + beta**0.5 * draw_noise()
    if not torch.isfinite(best[1]).all():
        raise FeatspaceError(NEVER_FINITE)
    with torch.no_grad():
        last = decode_latents(z)
        spent = torch.full_like(unguided, schedule.evaluations)
        trace = [(t, *pair) for (_, t, *_), pair in zip(_visits(schedule), losses, strict=True)]
        return Decoded(*best, last, distance(last), z, spent, trace, unguided)


def noted(losses: torch.Tensor | None, evaluations: int, index: int, *found: torch.Tensor) -> torch.Tensor:
    """The distances of all evaluations, (evaluations, len(found), N), with those `found` (N,) filled in at `index`.

    One tensor, filled in place: thousands of small ones, kept from between large ones, fragment the heap until
    memory is full.
    """
    if losses is None:
        losses = found[0].new_full((evaluations, len(found), len(found[0])), torch.nan)
    losses[index] = torch.stack(found)
    return losses


def conditioned(gradient: torch.Tensor, eps: torch.Tensor, clip_std: float | None) -> torch.Tensor:
    """The gradient scaled to ‖ε‖ a sample, then clamped to mean ± κ·std (unbiased) of the sample's elements."""
    rows, norms = gradient.flatten(1), eps.flatten(1).norm(dim=1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    rows = torch.where(usable, rows * (norms / length), torch.zeros_like(rows))
    if clip_std is not None:
        mean, std = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        rows = rows.clamp(mean - clip_std * std, mean + clip_std * std)
    return rows.view_as(gradient)


def _visits(schedule: Schedule) -> Iterator[tuple[int, int, int, int, float, float]]:
    index = 0
    for t, repeats, alpha_bar, beta in zip(
        schedule.timesteps, schedule.recurrences, schedule.alpha_bars, schedule.betas, strict=True
    ):
        for recurrence in range(repeats):
            yield index, t, recurrence, repeats, alpha_bar, beta
            index += 1


def _clean(z: torch.Tensor, eps: torch.Tensor, alpha_bar: float) -> torch.Tensor:
    return (z - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def _ancestral(z: torch.Tensor, eps: torch.Tensor, alpha_bar: float, beta: float) -> torch.Tensor:
    return (z - beta / (1 - alpha_bar) ** 0.5 * eps) / (1 - beta) ** 0.5


def nearest(
    best: Sequence[torch.Tensor] | None, images: torch.Tensor, distances: torch.Tensor, t: int, recurrence: float
) -> tuple[torch.Tensor, ...]:
    """The nearer of the best seen so far and `images`, a sample apart; the earlier one on a tie."""
    steps = torch.full_like(distances, t, dtype=torch.int64)
    visits = torch.full_like(distances, recurrence)
    if best is None:
        return images, torch.where(distances.isnan(), torch.inf, distances), steps, visits
    nearer = distances < best[1]  # false for NaN
    shape = (-1,) + (1,) * (images.ndim - 1)
    return (
        torch.where(nearer.view(shape), images, best[0]),
        torch.where(nearer, distances, best[1]),
        torch.where(nearer, steps, best[2]),
        torch.where(nearer, visits, best[3]),
    )

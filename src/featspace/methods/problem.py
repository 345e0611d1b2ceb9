"""What every method is given and what it returns.

Symbols follow the paper (arXiv 2509.07936): noise prediction ε, latent z_t, estimated clean latent ẑ₀, decoded image
x̂ = D(ẑ₀), encoder f, target feature f*, distance ℓ(x) = ‖f(x) − f*‖², schedule β_t, ᾱ_t = Π (1 − β_t).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Concatenate

import torch
from torch import Tensor

from featspace.utils.errors import FeatspaceError

NEVER_FINITE = "the feature distance was never finite: check the target feature and the encoder for NaN"


@dataclass
class Problem:
    """Features to decode, a sample each. Samples do not depend on one another, so neither does a method's result."""

    predict_noise: Callable[[Tensor, int], Tensor]
    """ε_θ(z_t, t, c), (n, C, h, w)."""
    decode_latents: Callable[[Tensor], Tensor]
    """D(z), images (n, 3, H, W) in about [−1, 1]."""
    encode: Callable[[Tensor], Tensor]
    """f(x), (n, D), differentiable."""
    targets: Tensor
    """f* of each sample, (N, D)."""
    draw_noise: Callable[..., Tensor]
    """Fresh standard normal noise (N, C, h, w), each sample's from its own generator; with a shape, (N, *shape)."""
    alphas_cumprod: Tensor
    """ᾱ of the prior's training, (T,)."""
    copy: Callable[[Tensor, Tensor], Tensor] | None = None
    """A random copy of each of the images (n, 3, H, W) of the samples `rows` (n,) (`copies.RandomCopies`); None where
    there are none to take, as of features that say where things are."""
    preview: Callable[[Tensor], Tensor] | None = None
    """A cheaper D, such as a tiny autoencoder's, to guide through while noise is high."""
    image_shape: tuple[int, ...] | None = None
    """(3, H, W), for methods that descend on pixels."""

    def distance(self, images: Tensor) -> Tensor:
        """ℓ of images (N, 3, H, W), (N,)."""
        return (self.encode(images) - self.targets).square().sum(1)


@dataclass(frozen=True)
class Evaluation:
    """What one guided evaluation saw, for a callback; tensors have one row a sample."""

    index: int
    timestep: int
    recurrence: int
    latents: Tensor
    """z_t as it was given to the noise prediction, (N, C, h, w)."""
    distance_before: Tensor
    """ℓ(x̂) of the unguided estimate, (N,)."""
    distance_after: Tensor
    """ℓ(x̂) of the corrected estimate, (N,); NaN from methods that do not decode it."""
    guided: Tensor
    """False where the gradient was not finite, so that the correction was left out, (N,)."""
    next_latents: Tensor | None = None
    """What the method goes on with, (N, C, h, w)."""
    images: Tensor | None = None
    """x̂ of the unguided estimate, (N, 3, H, W), in about [−1, 1]; NaN of samples that are done."""


Callback = Callable[[Evaluation], Tensor | None]
"""Is given each evaluation once its step is done; latents that it returns take the place of `next_latents`."""


@dataclass
class Decoded:
    """Images decoded from features; every tensor has one row a sample."""

    images: Tensor
    """Of all images seen, the one nearest to the target feature, (N, 3, H, W), in about [−1, 1]."""
    distances: Tensor
    """Its squared Euclidean distance, (N,)."""
    timesteps: Tensor
    """Where it was seen, (N,)."""
    recurrences: Tensor
    """The evaluation at that step it was seen in, (N,); half a step more means after the correction."""
    last_images: Tensor
    """The image of the last latent."""
    last_distances: Tensor
    latents: Tensor
    """The last latent, (N, C, h, w)."""
    evaluations: Tensor
    """Guided evaluations spent, (N,)."""
    trace: list[tuple[int, Tensor, Tensor]] = field(repr=False)
    """Timestep, distance before and distance after, of each evaluation; NaN where there was none."""
    unguided: Tensor
    """Evaluations left unguided because the gradient was not finite, (N,)."""


Method = Callable[Concatenate[Problem, ...], Decoded]
"""A way from features to images: `method(problem, callback=None, **settings)`, all but the first by keyword.

Each has settings of its own, all with defaults, which no common type can name. Raises FeatspaceError if a sample never
had a finite distance, UsageError for settings out of range.
"""


class Record:
    """What a method has seen so far: the nearest image of each sample, and the distances of every evaluation."""

    def __init__(self, samples: int, evaluations: int, callback: Callback | None = None):
        """`evaluations`: how many there will be at most."""
        self.samples, self.evaluations, self.callback = samples, evaluations, callback
        self._best: tuple[Tensor, ...] | None = None
        # One tensor, filled in place: thousands of small ones, kept from between large ones, fragment the heap until
        # memory is full.
        self._distances: Tensor | None = None
        self._timesteps: list[int] = []
        self._waiting: list[Evaluation] = []  # for their step to be done
        self._spent = self._unguided = torch.zeros(samples, dtype=torch.int64)

    def keep(self, images: Tensor, distances: Tensor, t: int, recurrence: float, rows: Tensor | None = None) -> None:
        """Remembers images (n, 3, H, W), in place of those kept of the samples `rows` (n,), where they are nearer."""
        found = images.detach(), distances.detach(), t, recurrence
        if self._best is None or rows is None:
            self._best = nearest(self._best, *found)
            return
        now = nearest([kept[rows] for kept in self._best], *found)
        self._best = tuple(kept.index_put((rows,), new) for kept, new in zip(self._best, now, strict=True))

    def add(
        self,
        t: int,
        recurrence: int,
        z: Tensor,
        before: Tensor,
        after: Tensor | None = None,
        guided: Tensor | None = None,
        rows: Tensor | None = None,
        images: Tensor | None = None,
    ) -> None:
        """Notes an evaluation of the samples `rows` (by default all), as `Evaluation` says; `images` are of `rows`."""
        rows = torch.arange(self.samples, device=before.device) if rows is None else rows
        if self._distances is None:
            self._distances = before.new_full((self.evaluations, 2, self.samples), torch.nan)
            self._spent, self._unguided = self._spent.to(before.device), self._unguided.to(before.device)
        index = len(self._timesteps)
        self._timesteps.append(t)
        self._distances[index, 0, rows] = before.detach()
        if after is not None:
            self._distances[index, 1, rows] = after.detach()
        finite = torch.ones(self.samples, dtype=torch.bool, device=before.device)
        if guided is not None:
            finite[rows] = guided
        self._spent = self._spent.index_add(0, rows, torch.ones_like(rows))
        self._unguided = self._unguided + ~finite
        if self.callback is not None:
            seen = self._distances[index].clone()
            if images is not None:
                missing = images.new_full((self.samples, *images.shape[1:]), torch.nan)
                images = missing.index_copy(0, rows, images.detach())
            self._waiting.append(Evaluation(index, t, recurrence, z, seen[0], seen[1], finite, None, images))

    def step(self, latents: Tensor) -> Tensor:
        """Calls the callback for the evaluations since the last step; returns the latents to go on with."""
        waiting, self._waiting = self._waiting, []
        for evaluation in waiting:
            given = self.callback and self.callback(replace(evaluation, next_latents=latents.clone()))
            latents = latents if given is None else given
        return latents

    def decoded(self, problem: Problem, latents: Tensor, last: Tensor | None = None) -> Decoded:
        """The result; `last` are the images of the last latents, by default decoded from them.

        Raises FeatspaceError if a sample never had a finite distance.
        """
        if self._best is None or self._distances is None or not self._best[1].isfinite().all():
            raise FeatspaceError(NEVER_FINITE)
        with torch.no_grad():
            last = problem.decode_latents(latents) if last is None else last
            last_distances = problem.distance(last)
        trace = [(t, pair[0], pair[1]) for t, pair in zip(self._timesteps, self._distances, strict=False)]
        images, distances, steps, visits = self._best
        spent, unguided = self._spent, self._unguided
        return Decoded(images, distances, steps, visits, last, last_distances, latents, spent, trace, unguided)


def nearest(
    best: Sequence[Tensor] | None, images: Tensor, distances: Tensor, t: int, recurrence: float
) -> tuple[Tensor, ...]:
    """The nearer of the best seen so far and `images`, a sample apart; the earlier one on a tie.

    Returns images, distances, and the t and recurrence where each was seen. One of a distance that is not finite is
    never the nearest.
    """
    distances = torch.where(distances.isfinite(), distances, torch.inf)
    steps = torch.full_like(distances, t, dtype=torch.int64)
    visits = torch.full_like(distances, recurrence)
    if best is None:
        return images, distances, steps, visits
    nearer = distances < best[1]
    shape = (-1,) + (1,) * (images.ndim - 1)
    return (
        torch.where(nearer.view(shape), images, best[0]),
        torch.where(nearer, distances, best[1]),
        torch.where(nearer, steps, best[2]),
        torch.where(nearer, visits, best[3]),
    )

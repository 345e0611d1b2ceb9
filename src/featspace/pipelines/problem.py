"""From a prior, an encoder and features to the problem that methods solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from featspace.methods.copies import RandomCopies
from featspace.methods.problem import Problem
from featspace.methods.saved import encode_as_saved
from featspace.priors.prior import Prior


def problem_of(
    prior: Prior,
    encoder: Callable[[Tensor], Tensor],
    features: Tensor,
    generators: Sequence[torch.Generator | None],
    copies: bool = True,
    tiny_vae: AutoencoderTiny | None = None,
) -> Problem:
    """The problem of decoding `features` (N, D), on their device; each sample draws from its own of the `generators`.

    `encoder` maps images (N, 3, H, W) in [0, 1] to (N, D); it sees them on the 256 levels of an 8-bit file. `copies`:
    methods may ask for random copies of an image to match as well, unlike for a map, which says where things are.
    `tiny_vae`, a small autoencoder of the same latents, previews them.
    """

    def draw_noise(shape: tuple[int, ...] | None = None) -> Tensor:
        shape = prior.latent_shape if shape is None else shape
        rows = [torch.randn(shape, generator=g, device=g.device if g else "cpu") for g in generators]
        return torch.stack([row.to(features.device) for row in rows])

    return Problem(
        prior.predict_noise,
        prior.decode,
        encode_as_saved(encoder),
        features,
        draw_noise,
        prior.alphas_cumprod,
        RandomCopies(generators) if copies else None,
        None if tiny_vae is None else prior.with_vae(tiny_vae).decode,
        (3, prior.image_size, prior.image_size),
    )

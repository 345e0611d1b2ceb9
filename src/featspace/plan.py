"""What a decoding will cost, known before any weight is loaded: operations, memory, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from featspace.prior import Prior

T = 500
"""A timestep: what an evaluation costs is the same at each."""


@dataclass(frozen=True)
class Cost:
    """Of one guided evaluation of one image."""

    flops: int
    """Floating-point operations of UNet, VAE and encoder, forward and backward, a multiplication and an addition each
    counted, in matrix products, convolutions and attention."""
    weights: int
    """Bytes of all weights."""
    kept: int
    """Bytes of the activations that the backward pass needs."""


def evaluation_cost(prior: Prior, encoder: Callable[[torch.Tensor], torch.Tensor]) -> Cost:
    """Runs one guided evaluation of `prior` and `encoder` (a module: images in [0, 1] → features, (N, D)).

    Meant for networks on the meta device, where tensors have shapes but no values: that takes seconds and no memory.
    """
    tensors = [p for network in (prior.unet, prior.vae, encoder) for p in (*network.parameters(), *network.buffers())]
    weights = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
    device = prior.unet.device
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    z = torch.zeros(1, *prior.latent_shape, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            # A copy, as the counter cannot follow the gradient of a leaf that a module is given.
            clean = z - prior.predict_noise(z.clone(), torch.tensor(T, device=device))
            loss = encoder(prior.decode(clean).clamp(0, 1)).sum()
        torch.autograd.grad(loss, z)
        with torch.no_grad():  # the corrected estimate is decoded and scored once more
            encoder(prior.decode(clean).clamp(0, 1))
    return Cost(
        flops=counter.get_total_flops(),
        weights=sum(tensor.untyped_storage().nbytes() for tensor in weights.values()),
        kept=sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights),
    )


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a large matrix product on this device, measured; the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

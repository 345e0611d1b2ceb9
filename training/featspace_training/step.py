"""One step of a training: forward, backward, the optimizer, the average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from featspace.utils.devices import cpu_kernels, multiplies_bfloat16
from featspace_training.checkpoint import State
from featspace_training.graph import Replayed

Loss = Callable[[nn.Module, list[Tensor], torch.Generator], Tensor]
"""The scalar loss of a model on a batch; what it draws comes from the generator, or from the global one."""


class Step:
    """Takes the next step of `state` on a batch; on a GPU it is replayed from a graph (`graph.Replayed`).

    AdamW, gradient norm at most 1, bfloat16 where the device multiplies in it.
    """

    def __init__(self, state: State, loss: Loss, seed: int, ema: float, device: torch.device):
        self.state, self.loss, self.seed, self.ema, self.device = state, loss, seed, ema, device
        self.precision = mixed_precision(device, state.model)
        self.generator = torch.Generator(device)
        self.batch: list[Tensor] = []
        self.average, self.weights = (list(each.state_dict().values()) for each in (state.average, state.model))
        self.take: Callable[[], None] = self._take
        if device.type == "cuda":
            self.take = Replayed(self._take, self.generator)

    def __call__(self, batch: Sequence[Tensor], rate: float) -> None:
        """`rate` is the learning rate. All random numbers follow from the seed and the number of the step."""
        seed = self.seed * 1_000_003 + self.state.step
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        for group in self.state.optimizer.param_groups:
            group["lr"].fill_(rate)
        if not self.batch:
            self.batch = [torch.empty_like(part, device=self.device) for part in batch]
        for place, part in zip(self.batch, batch, strict=True):
            place.copy_(part, non_blocking=True)
        self.take()
        self.state.step += 1
        self.state.since += 1

    def _take(self) -> None:
        state = self.state
        with self.precision():
            loss = self.loss(state.model, self.batch, self.generator)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimizer.step()
        _average(self.average, self.weights, self.ema if state.step else 0.0)
        state.loss.add_(loss.detach())


def mixed_precision(device: torch.device, model: nn.Module) -> Callable[[], contextlib.AbstractContextManager]:
    """A context for the forward pass: bfloat16 where the device multiplies in it, else float32."""
    if not multiplies_bfloat16(device):
        return contextlib.nullcontext
    kernels = cpu_kernels(model) if device.type == "cpu" else contextlib.nullcontext

    @contextlib.contextmanager
    def context():
        with torch.autocast(device.type, dtype=torch.bfloat16), kernels():
            yield

    return context


@torch.no_grad()
def _average(average: list[Tensor], weights: list[Tensor], keep: float) -> None:
    """average ← keep·average + (1 − keep)·weights, of what state dicts hold; counts are copied."""
    numbers = [i for i, tensor in enumerate(average) if tensor.is_floating_point()]
    torch._foreach_lerp_([average[i] for i in numbers], [weights[i] for i in numbers], 1 - keep)
    for i in set(range(len(average))) - set(numbers):
        average[i].copy_(weights[i])

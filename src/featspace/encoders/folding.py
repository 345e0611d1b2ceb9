"""Batch normalization folded into the convolution before it: a frozen network computes the same in less time.

Of a network that is never trained, mean, variance, scale and shift of a batch normalization are constants, so that with
the convolution it follows it is one convolution. What is saved is a pass over each activation, forward and backward:
half of the time of EfficientNet-Lite0 on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-3
"""Largest difference that rounding may make, as a share of the largest output."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module, inputs: Tensor, kept: str | None = None) -> int:
    """Folds each batch normalization of `model` into the convolution whose output it is given; returns how many.

    Modules keep their names and, but for the convolutions, their outputs. `inputs` (N, 3, H, W) is run through the
    model to see what is given to what. A convolution in the module named `kept`, whose output is asked for, stays as it
    is if its batch normalization comes after that module. A model whose output would change beyond rounding is left as
    it was.
    """
    model.eval().requires_grad_(False)
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return 0
    before = {name: (module.weight, module.bias) for name, module in model.named_modules() if _is_conv(module)}
    expected = _tensor(model(inputs))
    inside = {id(module) for name, top in model.named_modules() if name == kept for module in top.modules()}
    folded = []
    for conv, norm in _pairs(model, inputs):
        if id(conv) in inside and id(norm) not in inside:
            continue
        weights = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in weights)
        folded.append(norm)
    norms = {id(norm) for norm in folded}
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    places = [(parent, name, norm) for parent, name, norm in places if id(norm) in norms]
    for parent, name, norm in places:
        setattr(parent, name, nn.Sequential(OrderedDict(norm.named_children())))  # timm's have an activation
    found = _tensor(model(inputs))
    if found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
        return len(folded)
    for parent, name, norm in places:
        setattr(parent, name, norm)
    for name, (weight, bias) in before.items():
        unfolded = model.get_submodule(name)
        unfolded.weight, unfolded.bias = weight, bias
    return 0


def _pairs(model: nn.Module, inputs: Tensor) -> Iterator[tuple[nn.Conv2d, Any]]:
    """Each convolution whose output a batch normalization is given, and that, each used once."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.Module]] = []
    runs: dict[nn.Module, int] = {}

    def ran(module: nn.Conv2d, _given: tuple[Tensor, ...], out: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        made[id(out)] = (module, out)  # holds the output, so that no other tensor gets its id

    def normed(module: nn.BatchNorm2d, given: tuple[Tensor, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        if id(given[0]) in made:
            found.append((made[id(given[0])][0], module))

    with ExitStack() as stack:
        for module in model.modules():
            if _is_conv(module):
                stack.callback(module.register_forward_hook(ran).remove)
            elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                stack.callback(module.register_forward_pre_hook(normed).remove)
        model(inputs)
    for conv, norm in found:
        if runs[conv] == runs[norm] == 1:
            yield conv, norm


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.padding_mode == "zeros"


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]

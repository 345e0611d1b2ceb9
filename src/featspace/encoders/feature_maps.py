"""Feature maps of any network: a layer's output as (N, C, h, w), whatever the library and the kind of network."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from featspace.utils.errors import FeatspaceError, UsageError, suggest

UNPOOLED = "unpooled"
"""As a layer's name: what the network pools, or reads the class token of, to make its feature."""
POOLED = "pooled"
"""As a layer's name: no layer, but the network's own feature."""


def unpooled(trunk: nn.Module, inputs: Tensor) -> Tensor:
    """The map (N, C, h, w) from which the network makes its feature, of preprocessed `inputs` (N, 3, H, W).

    `trunk` is the part of the network that looks at images. Of a transformer it is the last layer's tokens as a grid,
    after the norm where the network norms all of them. Raises FeatspaceError if the network has no such map.
    """
    if hasattr(trunk, "forward_features"):  # timm
        return as_map(trunk.forward_features(inputs), trunk, inputs)
    if hasattr(trunk, "trunk"):  # timm inside open_clip
        return as_map(trunk.trunk.forward_features(inputs), trunk.trunk, inputs)
    if hasattr(trunk, "attnpool"):  # CLIP's ResNet
        return at_layer(trunk, inputs, "layer4")
    if hasattr(trunk, "config"):  # transformers
        return as_map(trunk(inputs), trunk, inputs)
    pools = [name for name, module in trunk.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if pools:  # torchvision
        return as_map(_seen(trunk, inputs, pools[-1], given=True), None, inputs)
    layer = next((name for name in ("transformer", "encoder") if hasattr(trunk, name)), None)
    if layer is None:
        raise FeatspaceError(f"{type(trunk).__name__}: what it pools is not known; name a layer instead")
    return at_layer(trunk, inputs, layer)


def at_layer(trunk: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """The output (N, C, h, w) of the module `layer` of `trunk`, given `inputs` (N, 3, H, W).

    Raises UsageError for an unknown layer, FeatspaceError if its output is no map.
    """
    known = dict(trunk.named_modules())
    if layer not in known or not layer:
        top = ", ".join(name for name, _ in trunk.named_children())
        hint = suggest(layer, known) or f"; among its layers are {top}"
        raise UsageError(f"layer {layer!r}: {type(trunk).__name__} has none of that name{hint}")
    output = _seen(trunk, inputs, layer)
    try:
        return as_map(output, trunk, inputs)
    except FeatspaceError as error:
        raise FeatspaceError(f"layer {layer!r}: {error}; name a layer before it, or {UNPOOLED}") from None


def as_map(output: Any, trunk: nn.Module | None, inputs: Tensor) -> Tensor:
    """A layer's output as (N, C, h, w): a map as it is, channels brought to the front; tokens (N, L, C) as a grid.

    What comes before the grid's tokens (class token, registers) is dropped. Raises FeatspaceError for anything else.
    """
    if not isinstance(output, Tensor):  # tuples, and the outputs of transformers
        output = output[0]
    if not isinstance(output, Tensor):
        raise FeatspaceError(f"its output holds a {type(output).__name__}, neither a map nor tokens")
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if _channels_last(trunk) else output
    if output.ndim != 3:
        raise FeatspaceError(f"its output is of shape {tuple(output.shape)}, neither a map nor tokens")
    if output.shape[0] != len(inputs):  # length first, as older transformers have it
        output = output.transpose(0, 1)
    height, width = _grid(output.shape[1], *inputs.shape[-2:])
    return output[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def _grid(length: int, height: int, width: int) -> tuple[int, int]:
    """The largest grid of the input's aspect ratio that `length` tokens fill, but for a few before it."""
    divisor = math.gcd(height, width)
    rows, columns = height // divisor, width // divisor
    scale = math.isqrt(length // (rows * columns))
    if scale == 0 or length - rows * columns * scale**2 > 8:
        raise FeatspaceError(f"its {length} tokens are no grid of the input's {height}x{width}")
    return rows * scale, columns * scale


def _channels_last(trunk: nn.Module | None) -> bool:
    named = str(getattr(trunk, "output_fmt", "")).upper()
    return named.endswith("NHWC") or type(trunk).__name__ == "SwinTransformer" and not named


class _Reached(Exception):
    pass


def _seen(trunk: nn.Module, inputs: Tensor, layer: str, given: bool = False) -> Any:
    """What a layer gives, or is `given`; what comes after it is not computed."""
    caught = []

    def catch(_module, taken, made=None):
        caught.append(taken[0] if given else made)
        raise _Reached

    module = trunk.get_submodule(layer)
    with ExitStack() as stack:
        handle = module.register_forward_pre_hook(catch) if given else module.register_forward_hook(catch)
        stack.callback(handle.remove)
        try:
            trunk(inputs)
        except _Reached:
            return caught[0]
    raise FeatspaceError(f"layer {layer!r}: is not used when the network looks at an image; name another")

"""Feature maps of any network: a layer's output as (N, C, h, w), by what the network's library says of it.

A map that is read in a wrong layout still looks like one. So the layout is what the library says (`adapters.Layers`) or
is established when the network is loaded; a layer whose layout cannot be known is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from featspace.encoders.adapters import Layers, Tokens
from featspace.utils.errors import FeatspaceError, UsageError, suggest

UNPOOLED = "unpooled"
"""As a layer's name: what the network pools, or reads the class token of, to make its feature."""
POOLED = "pooled"
"""As a layer's name: no layer, but the network's own feature."""
CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Modules of torch whose outputs are (N, C, h, w) by definition."""
Read = Callable[[Any, Tensor], Any]
"""The part of a network that looks at images, and preprocessed inputs (N, 3, H, W) -> what a layer gives."""


@dataclass(frozen=True)
class FeatureMap:
    """Called with what `read` is given: a layer's output as (N, C, h, w)."""

    read: Read
    tokens: Tokens | None = None
    channels_last: bool = False

    def __call__(self, trunk: Any, inputs: Tensor) -> Tensor:
        output = _tensor(self.read(trunk, inputs))
        if self.tokens is not None:
            return output[:, self.tokens.prefix :].transpose(1, 2).unflatten(2, self.tokens.grid)
        return output.permute(0, 3, 1, 2) if self.channels_last else output


def at_layer(trunk: nn.Module, layer: str, inputs: Tensor, layers: Layers, read: Read | None = None) -> FeatureMap:
    """What `read`, or else the module `layer`, gives as a map, for inputs of this size (two at least).

    Raises UsageError if there is no such module, or the layout of what it gives cannot be known; FeatspaceError if that
    is no map, or the module is not used.
    """
    modules = dict(trunk.named_modules())
    if layer != UNPOOLED and layer not in modules or not layer:
        hint = suggest(layer, modules) or f"; among its layers are {', '.join(dict(trunk.named_children()))}"
        raise UsageError(f"layer {layer!r}: {type(trunk).__name__} has none of that name{hint}")
    read = read or partial(output_of, layer=layer)
    shape = tuple(getattr(_tensor(read(trunk, inputs)), "shape", ()))
    found = f"its output, {f'of shape {shape} for {len(inputs)} images' if shape else 'which has several parts'},"
    if len(shape) not in (3, 4):
        advice = "name a layer before it" + (f", or {UNPOOLED}" if layer != UNPOOLED else "")
        raise FeatspaceError(f"layer {layer!r}: {found} is neither a map nor tokens; {advice}")
    if layers.tokens and shape[:-1] == (len(inputs), layers.tokens.length):
        return FeatureMap(read, layers.tokens)
    if len(shape) == 4 and shape[0] == len(inputs):
        last = False if isinstance(modules.get(layer), CHANNELS_FIRST) else layers.channels_last
        last = _channels_last(trunk, inputs, shape, read) if last is None else last
        if last is not None:
            return FeatureMap(read, channels_last=last)
    order = [*modules, UNPOOLED]
    earlier = [name for name in layers.names if name in order[: order.index(layer) + 1]]
    near = [*earlier[-1:], *(name for name in layers.names if name not in earlier)][:2] or [POOLED]
    raise UsageError(f"layer {layer!r}: how {found} is laid out cannot be known; name {' or '.join(near)}")


def _channels_last(trunk: nn.Module, inputs: Tensor, shape: tuple[int, ...], read: Read) -> bool | None:
    """Whether the channels of a map are its last axis: rows and columns grow with the image's. None: not known."""
    height, width = inputs.shape[-2:]
    grown = []
    for size in ((2 * height, width), (height, 2 * width)):
        try:
            larger = _tensor(read(trunk, inputs.new_zeros(1, 3, *size))).shape
        except Exception:  # a library raises any class for a size that its network does not take
            return None
        grown.append([axis for axis in (1, 2, 3) if larger[axis] > shape[axis]])
    return False if grown == [[2], [3]] else True if grown == [[1], [2]] else None


class _Reached(Exception): ...


def output_of(trunk: nn.Module, inputs: Tensor, layer: str, given: bool = False) -> Any:
    """What the module `layer` gives, or is `given`; what comes after it is not computed."""
    caught = []

    def catch(_module: nn.Module, taken: tuple[Any, ...], made: Any = None) -> None:
        caught.append(taken[0] if given else made)
        raise _Reached

    module = trunk.get_submodule(layer)
    handle = module.register_forward_pre_hook(catch) if given else module.register_forward_hook(catch)
    try:
        trunk(inputs)
    except _Reached:
        return caught[0]
    finally:
        handle.remove()
    raise FeatspaceError(f"layer {layer!r}: is not used when the network looks at an image; name another")


def _tensor(output: Any) -> Any:
    """The one tensor of an output, which may come in a tuple or in a class of transformers; None if there are more."""
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else [output]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return tensors[0] if len(tensors) == 1 else None

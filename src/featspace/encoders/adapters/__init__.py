"""Adapters that turn a network of timm, open_clip, torchvision, transformers or a Python package into one shape.

One module a library, with `load(name, folder)`, which reads a network from the folder that `hub.resolve` gives
(None: random weights), and, where the library has a layout of folders, `load_folder(folder, config)`. To import one
imports its library, which takes seconds, so it is left to `encoder.load_encoder`. Pickles are not read, except what
torchvision has, and that by weights_only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn
from tqdm import tqdm

from featspace.encoders.preprocessing import Preprocess
from featspace.utils.errors import one_line


class Tokens(NamedTuple):
    """Tokens (N, L, C) of a transformer: `prefix` that have no place (class token, registers), then a grid by rows."""

    prefix: int
    grid: tuple[int, int]  # rows, columns

    @property
    def length(self) -> int:
        return self.prefix + self.grid[0] * self.grid[1]


class Layers(NamedTuple):
    """What a library says of the layers of a network that is given inputs of one size."""

    names: Sequence[str] = ()  # layers with maps, for advice
    tokens: Tokens | None = None
    channels_last: bool | None = None  # of maps with four axes; None: not said


@cache
def warn_of_cut(text: str, tokens: int, length: int) -> None:
    """A line on standard error, once a text, if a network reads no more than the first `length` of its tokens."""
    if tokens > length:
        shown = one_line(text, 60)
        tqdm.write(f"caption cut: the network reads {length} of the {tokens} tokens of {shown!r}", file=sys.stderr)


class Network(NamedTuple):
    """A loaded network. Its functions are given the model, so that they work on a copy of it as well."""

    model: nn.Module
    preprocess: Preprocess
    feature: Callable[[Any, Tensor], Tensor]  # model, input (N, 3, h, w) -> (N, dim)
    # trunk, a layer's name, inputs (N > 1, 3, h, w) -> function of trunk and inputs of that size, which gives the map
    maps: Callable[[Any, str, Tensor], Callable[[Any, Tensor], Tensor]]
    logits: Callable[[Any, Tensor], Tensor] | None = None  # model, input (N, 3, h, w) -> (N, classes)
    text: Callable[[Any, list[str]], Tensor] | None = None  # model, N texts -> (N, dim)
    trunk: Callable[[Any], nn.Module] = lambda model: model  # the part that looks at images, whose modules are layers

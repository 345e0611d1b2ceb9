"""Adapters that turn a network of timm, open_clip, torchvision or transformers into one shape.

One module a library, with `load(name)` and, where the library has a layout of folders,
`load_folder(folder, config)`. To import one imports its library, which takes seconds, so it is left to
`encoders.load_encoder`. Pickles are not read, except what torchvision publishes, and that by weights_only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from featspace.errors import FeatspaceError
from featspace.preprocessing import Preprocess

T = TypeVar("T")
NO_CONNECTION = "check the name and the network connection, or name a local folder"


class Network(NamedTuple):
    """A loaded network. Its functions are given the model, so that they work on a copy of it as well."""

    model: nn.Module
    preprocess: Preprocess
    dim: int
    feature: Callable[[Any, Tensor], Tensor]  # model, input (N, 3, h, w) -> (N, dim)
    logits: Callable[[Any, Tensor], Tensor] | None = None  # model, input (N, 3, h, w) -> (N, classes)
    text: Callable[[Any, list[str]], Tensor] | None = None  # model, N texts -> (N, dim)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names that are close to an unknown one, if any."""
    close = difflib.get_close_matches(name, list(known))
    return f"; did you mean {' or '.join(close)}?" if close else ""


def cached_or_fetched(network: str, fetch: Callable[..., T]) -> T:
    """What `fetch` gets from the Hugging Face hub, looked for in the local cache first.

    So a network that was used once is the same ever after, and needs no connection. Raises FeatspaceError.
    """
    try:
        return fetch(local_files_only=True)
    except OSError:
        pass  # not in the cache: fetch it
    try:
        return fetch(local_files_only=False)
    except OSError as error:  # as all errors of the hub and of a connection are
        reason = one_line(error)
        missing = f"neither in the local cache nor to be had from the hub ({reason})"
        raise FeatspaceError(f"{network}: {missing}; {NO_CONNECTION}") from error


@contextmanager
def explained(source: str | Path) -> Iterator[None]:
    """Turns a library's failure to load `source` into a FeatspaceError of one line."""
    try:
        yield
    except FeatspaceError:
        raise
    except OSError as error:
        raise FeatspaceError(f"{source}: cannot be read ({one_line(error)})") from error
    except Exception as error:  # a library raises any class when configuration and weights do not fit
        reason = f"configuration and weights do not fit or are damaged ({one_line(error)})"
        raise FeatspaceError(f"{source}: {reason}; get them again") from error


def one_line(error: Exception, limit: int = 200) -> str:
    """An error's message (its class if it has none) without line breaks, cut at `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"

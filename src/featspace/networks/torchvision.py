"""torchvision: the feature is the input of the last linear layer, the classifier."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.error import URLError

import torch
import torchvision.models
from torch import Tensor, nn

from featspace.errors import FeatspaceError, UsageError
from featspace.files import sha256
from featspace.networks import NO_CONNECTION, Network, explained, suggest
from featspace.preprocessing import from_torchvision


def load(name: str) -> Network:
    """`<model>/<WEIGHTS>` from PyTorch's server. Raises UsageError for an unknown one, FeatspaceError."""
    source = f"torchvision:{name}"
    model_name, _, tag = name.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        raise UsageError(f"{source}: torchvision has no model {model_name!r}{suggest(model_name, known)}")
    members = torchvision.models.get_model_weights(model_name).__members__
    if tag not in members:
        missing = f"no weights {tag!r}" if tag else "the weights are named after a slash"
        raise UsageError(f"{source}: {missing}; there are {', '.join(members)}")
    weights = members[tag]
    _check_cached(weights.url)
    # torchvision's builders set what belongs to the weights (input size, auxiliary heads), but would unpickle
    # anything unless the environment forbids it.
    with explained(source), patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
        try:
            model = torchvision.models.get_model(model_name, weights=weights)
        except URLError as error:
            raise FeatspaceError(f"{source}: {weights.url} is not to be had; {NO_CONNECTION}") from error
        return split(model, weights.transforms())


def split(model: nn.Module, transforms: Any) -> Network:
    """A classifier of torchvision taken apart into trunk and head; `transforms` is weights.transforms()."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise FeatspaceError(f"{type(model).__name__} has no linear classifier, whose input is the feature")
    head = model.get_submodule(linear[-1])
    model.set_submodule(linear[-1], nn.Identity())
    parts = nn.ModuleDict({"trunk": model, "head": head})
    return Network(parts, from_torchvision(transforms), head.in_features, _feature, _logits)


def _feature(parts: Any, inputs: Tensor) -> Tensor:
    return parts["trunk"](inputs)


def _logits(parts: Any, inputs: Tensor) -> Tensor:
    return parts["head"](parts["trunk"](inputs))


def _check_cached(url: str) -> None:
    """torch.hub compares a file with the digest in its name after a download, but not later."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if digest and path.is_file() and not sha256(path).startswith(digest[1]):
        reason = "the file was altered (its SHA-256 is not the one in its name)"
        raise FeatspaceError(f"{path}: {reason}; remove it, and it is fetched again")

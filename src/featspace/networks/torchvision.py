"""torchvision: the feature is the input of the last linear layer, the classifier."""

from __future__ import annotations

import os
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torchvision.models
from torch import Tensor, nn

from featspace.errors import FeatspaceError, UsageError, suggest
from featspace.hub import Source
from featspace.networks import Network, explained
from featspace.preprocessing import from_torchvision

LICENSE = "https://github.com/pytorch/vision#pre-trained-model-license"  # where the weights do not name their own


def source(name: str) -> Source:
    """`<model>/<WEIGHTS>` on PyTorch's server. Raises UsageError for an unknown one."""
    weights = _weights(name)
    address, _, file = weights.url.rpartition("/")
    return Source(address, (file,), weights.meta.get("license", LICENSE))


def load(name: str, folder: Path | None) -> Network:
    """`<model>/<WEIGHTS>` with the weights in torch.hub's cache, `folder`. Raises FeatspaceError if they do not fit."""
    weights = _weights(name)
    # torchvision's builders set what belongs to the weights (input size, auxiliary heads), and find the file in that
    # cache, but would unpickle anything unless the environment forbids it.
    with ExitStack() as stack:
        stack.enter_context(explained(f"torchvision:{name}"))
        stack.enter_context(patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"))
        if folder is None:
            stack.enter_context(patch.object(type(weights), "get_state_dict", return_value={}))
            stack.enter_context(patch.object(nn.Module, "load_state_dict"))
        return split(torchvision.models.get_model(name.partition("/")[0], weights=weights), weights.transforms())


def split(model: nn.Module, transforms: Any) -> Network:
    """A classifier of torchvision taken apart into trunk and head; `transforms` is weights.transforms()."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise FeatspaceError(f"{type(model).__name__} has no linear classifier, whose input is the feature")
    head = model.get_submodule(linear[-1])
    model.set_submodule(linear[-1], nn.Identity())
    parts = nn.ModuleDict({"trunk": model, "head": head})
    preprocess = from_torchvision(transforms)
    return Network(parts, preprocess, head.in_features, _feature, _logits, trunk=itemgetter("trunk"))


def _feature(parts: Any, inputs: Tensor) -> Tensor:
    return parts["trunk"](inputs)


def _logits(parts: Any, inputs: Tensor) -> Tensor:
    return parts["head"](parts["trunk"](inputs))


def _weights(name: str) -> Any:
    model_name, _, tag = name.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        close = suggest(model_name, known)
        raise UsageError(f"torchvision:{name}: torchvision has no model {model_name!r}{close}")
    members = torchvision.models.get_model_weights(model_name).__members__
    if tag not in members:
        missing = f"no weights {tag!r}" if tag else "the weights are named after a slash"
        raise UsageError(f"torchvision:{name}: {missing}; there are {', '.join(members)}")
    return members[tag]

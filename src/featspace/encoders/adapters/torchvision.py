"""torchvision: the feature is the input of the last linear layer, the classifier."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import torchvision.models
from torch import Tensor, nn

from featspace.encoders.adapters import Network
from featspace.encoders.preprocessing import from_torchvision
from featspace.hub.sources import torchvision_weights
from featspace.utils.errors import FeatspaceError, explained


def load(name: str, folder: Path | None) -> Network:
    """`<model>/<WEIGHTS>` with the weights in torch.hub's cache, `folder`. Raises FeatspaceError if they do not fit."""
    weights = torchvision_weights(name)
    # Given the weights, torchvision's builders would unpickle anything, hence without; but then they do not know what
    # belongs to them.
    with explained(f"torchvision:{name}"):
        model = torchvision.models.get_model(name.partition("/")[0], weights=None, **_belonging(name, weights))
        if folder is not None:
            model.load_state_dict(weights.get_state_dict(weights_only=True))  # finds the file in that cache
        return split(model, weights.transforms())


def _belonging(name: str, weights: Any) -> dict[str, Any]:
    """What the builders set for weights: classes, input size, auxiliary heads, another normalization of inputs."""
    categories = weights.meta.get("categories")
    options = {"num_classes": len(categories)} if categories else {}
    if name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    if name.startswith("maxvit"):
        options["input_size"] = weights.meta["min_size"]
    if name.startswith(("googlenet", "inception_v3")):
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    return options


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

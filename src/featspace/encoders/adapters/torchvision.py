"""torchvision: the feature is the input of the last linear layer, the classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torchvision.models
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from featspace.encoders.adapters import Layers, Network, Tokens
from featspace.encoders.feature_maps import UNPOOLED, FeatureMap, at_layer, output_of
from featspace.encoders.preprocessing import from_torchvision
from featspace.hub.sources import torchvision_weights
from featspace.utils.checkpoints import read_checkpoint
from featspace.utils.errors import FeatspaceError, explained


def load(name: str, folder: Path | None) -> Network:
    """`<model>/<WEIGHTS>` with the weights in torch.hub's cache, `folder`. Raises FeatspaceError if they do not fit."""
    weights = torchvision_weights(name)
    # Given the weights, torchvision's builders would unpickle anything, hence without; but then they do not know what
    # belongs to them.
    with explained(f"torchvision:{name}"):
        model = torchvision.models.get_model(name.partition("/")[0], weights=None, **_belonging(name, weights))
        if folder is not None:
            model.load_state_dict(read_checkpoint(folder / weights.url.rpartition("/")[2]))
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
    head: Any = model.get_submodule(linear[-1])
    model.set_submodule(linear[-1], nn.Identity())
    parts = nn.ModuleDict({"trunk": model, "head": head})
    preprocess = from_torchvision(transforms)
    return Network(parts, preprocess, _feature, _maps, _logits, trunk=itemgetter("trunk"))


def _feature(parts: Any, inputs: Tensor) -> Tensor:
    return parts["trunk"](inputs)


def _logits(parts: Any, inputs: Tensor) -> Tensor:
    return parts["head"](parts["trunk"](inputs))


def _maps(trunk: nn.Module, layer: str, inputs: Tensor) -> FeatureMap:
    layers = Layers([name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)])
    if isinstance(trunk, torchvision.models.VisionTransformer):
        rows, columns = (size // trunk.patch_size for size in inputs.shape[2:])
        names = [name for name, _ in trunk.named_modules() if name.rpartition(".")[0] == "encoder.layers"]
        layers = Layers(names, Tokens(1, (rows, columns)))
        layer = "encoder" if layer == UNPOOLED else layer
    elif layer == UNPOOLED:
        pools = [name for name, module in trunk.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
        if not pools:
            raise FeatspaceError(f"{type(trunk).__name__}: what it pools is not known; name a layer instead")
        return FeatureMap(partial(output_of, layer=pools[-1], given=True))
    return at_layer(trunk, layer, inputs, layers, _extractor(trunk, layer))


def _extractor(trunk: nn.Module, layer: str) -> Callable[[Any, Tensor], Any] | None:
    """What `layer` gives, of a trunk and inputs, run on that trunk's own modules; None if it is no part of the graph.

    None as well if the graph has constants, which would stay where they are when the trunk is moved.
    """
    try:
        graph = create_feature_extractor(trunk, {layer: "map"}, suppress_diff_warning=True).graph
    except ValueError:
        return None
    if any(node.op == "get_attr" and node.target.startswith("_tensor_constant") for node in graph.nodes):
        return None
    output = graph.output_node()
    output.args[0]["map"].append(output)  # as assertions about what comes after the layer are left in

    def read(trunk: nn.Module, inputs: Tensor) -> Any:
        return fx.Interpreter(trunk, graph=graph).run(inputs)["map"]

    return read

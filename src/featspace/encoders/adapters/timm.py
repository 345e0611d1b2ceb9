"""timm: the feature is what the classifier is given, pooled or the class token as the model has it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from featspace.encoders.adapters import Layers, Network, Tokens
from featspace.encoders.feature_maps import UNPOOLED, FeatureMap, at_layer
from featspace.encoders.preprocessing import from_timm
from featspace.hub.sources import check_timm
from featspace.utils.errors import FeatspaceError, explained

WEIGHTS = "model.safetensors"


def load(name: str, folder: Path | None) -> Network:
    """`<model>[.<tag>]` with the weights in a folder of the hub's cache. Raises FeatspaceError if they do not fit."""
    with explained(f"timm:{name}"):
        if folder is None:
            return _network(timm.create_model(name, pretrained=False))
        overlay = {"file": str(folder / WEIGHTS), "custom_load": False}  # a safetensors file holds timm's own names
        return _network(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay))


def load_folder(folder: Path, config: dict[str, Any], weights: bool = True) -> Network:
    """A folder with config.json (`config`) and model.safetensors, as timm.models.save_for_hf writes it."""
    check_timm(folder / "config.json", config["architecture"])
    with explained(folder):
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=weights)
        trained = (model.pretrained_cfg or {}).get("num_classes", model.num_classes)
        if model.num_classes not in (0, trained):  # timm would go on with a random classifier
            said = f"config.json says {trained} classes, but of the network {model.num_classes}"
            raise FeatspaceError(f"{folder}: {said}; correct num_classes")
        return _network(model)


def _network(model: Any) -> Network:
    preprocess = from_timm(resolve_model_data_config(model))
    logits = nn.Module.__call__ if model.num_classes > 0 else None
    return Network(model, preprocess, _feature, maps, logits)


def _feature(model: Any, inputs: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(inputs), pre_logits=True)


def maps(model: Any, layer: str, inputs: Tensor) -> FeatureMap:
    """The map at an entry of timm's `feature_info`, at any other module, or of `forward_features` (`unpooled`).

    Raises UsageError for an unknown layer and one of unknown layout, FeatspaceError for one without a map.
    """
    names = [entry["module"] for entry in getattr(model, "feature_info", ())]
    single = [name for name in names if name and names.count(name) == 1]
    if layer in single:
        return FeatureMap(partial(_intermediate, index=names.index(layer)))
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    prefix = getattr(model, "num_prefix_tokens", 0 if layer == UNPOOLED else None)
    tokens = None
    if names and prefix is not None:  # the final tokens have the grid of the last map
        rows, columns = _intermediate(model, inputs[:1], len(names) - 1).shape[2:]
        tokens = Tokens(prefix, (rows, columns))
    if layer == UNPOOLED:
        return at_layer(model, layer, inputs, Layers(single, tokens, channels_last), _features)
    block = layer.split(".")[-2:-1] == ["blocks"]  # of what is inside a block the model says nothing
    return at_layer(model, layer, inputs, Layers(single, tokens, True if channels_last and block else None))


def _features(model: Any, inputs: Tensor) -> Tensor:
    return model.forward_features(inputs)


def _intermediate(model: Any, inputs: Tensor, index: int) -> Tensor:
    options = {"norm": False, "stop_early": True, "output_fmt": "NCHW", "intermediates_only": True}
    return model.forward_intermediates(inputs, indices=[index], **options)[0]

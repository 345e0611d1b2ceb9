"""timm: the feature is what the classifier is given, pooled or the class token as the model has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from featspace.encoders.adapters import Network
from featspace.encoders.preprocessing import from_timm
from featspace.hub.sources import check_timm
from featspace.utils.errors import explained

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
        return _network(timm.create_model(f"local-dir:{folder}", pretrained=weights))


def _network(model: Any) -> Network:
    preprocess = from_timm(resolve_model_data_config(model))
    logits = nn.Module.__call__ if model.num_classes > 0 else None
    return Network(model, preprocess, model.head_hidden_size, _feature, logits)


def _feature(model: Any, inputs: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(inputs), pre_logits=True)

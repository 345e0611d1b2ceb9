"""timm: the feature is what the classifier is given, pooled or the class token as the model has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from featspace.errors import FeatspaceError, UsageError, suggest
from featspace.hub import Source
from featspace.networks import Network, explained
from featspace.preprocessing import from_timm

WEIGHTS = "model.safetensors"


def source(name: str) -> Source:
    """`<model>[.<tag>]` on the hub. Raises UsageError for an unknown one, FeatspaceError for a mere pickle."""
    architecture, _, tag = name.partition(".")
    _check_known(f"timm:{name}", architecture)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (tag and tag not in tags):
        listed = f"its tags are {', '.join(tags)}" if tags else "timm publishes none of this model"
        raise UsageError(f"timm:{name}: no such weights; {listed}")
    repo = timm.get_pretrained_cfg(name).hf_hub_id
    if not repo:
        raise FeatspaceError(f"timm:{name}: published only as a pickle, which can run code when it is loaded")
    return Source(repo, (WEIGHTS,))


def load(name: str, folder: Path | None) -> Network:
    """`<model>[.<tag>]` with the weights in a folder of the hub's cache. Raises FeatspaceError if they do not fit."""
    with explained(f"timm:{name}"):
        if folder is None:
            return _network(timm.create_model(name, pretrained=False))
        overlay = {"file": str(folder / WEIGHTS), "custom_load": False}  # a safetensors file holds timm's own names
        return _network(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay))


def load_folder(folder: Path, config: dict[str, Any], weights: bool = True) -> Network:
    """A folder with config.json (`config`) and model.safetensors, as timm.models.save_for_hf writes it."""
    _check_known(folder / "config.json", config["architecture"])
    with explained(folder):
        return _network(timm.create_model(f"local-dir:{folder}", pretrained=weights))


def _check_known(source: str | Path, architecture: str) -> None:
    if not timm.is_model(architecture):
        close = suggest(architecture, timm.list_models())
        raise UsageError(f"{source}: timm has no model {architecture!r}{close}")


def _network(model: Any) -> Network:
    preprocess = from_timm(resolve_model_data_config(model))
    logits = nn.Module.__call__ if model.num_classes > 0 else None
    return Network(model, preprocess, model.head_hidden_size, _feature, logits)


def _feature(model: Any, inputs: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(inputs), pre_logits=True)

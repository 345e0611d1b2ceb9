"""timm: the feature is what the classifier is given, pooled or the class token as the model has it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from featspace.errors import FeatspaceError, UsageError
from featspace.networks import Network, cached_or_fetched, explained, suggest
from featspace.preprocessing import from_timm


def load(name: str) -> Network:
    """`<model>[.<tag>]` with weights from the hub. Raises UsageError for an unknown one, FeatspaceError."""
    architecture, _, tag = name.partition(".")
    _check_known(f"timm:{name}", architecture)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (tag and tag not in tags):
        listed = f"its tags are {', '.join(tags)}" if tags else "timm publishes none of this model"
        raise UsageError(f"timm:{name}: no such weights; {listed}")
    repo = timm.get_pretrained_cfg(name).hf_hub_id
    if not repo:
        raise FeatspaceError(f"timm:{name}: published only as a pickle, which can run code when it is loaded")
    weights = cached_or_fetched(f"timm:{name}", partial(hf_hub_download, repo, "model.safetensors"))
    overlay = {"file": weights, "custom_load": False}  # a safetensors file holds timm's own names
    with explained(f"timm:{name}"):
        return _network(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay))


def load_folder(folder: Path, config: dict[str, Any]) -> Network:
    """A folder with config.json (`config`) and model.safetensors, as timm.models.save_for_hf writes it."""
    _check_known(folder / "config.json", config["architecture"])
    with explained(folder):
        return _network(timm.create_model(f"local-dir:{folder}", pretrained=True))


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

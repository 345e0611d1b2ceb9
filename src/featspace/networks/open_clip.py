"""open_clip: the features are the image and text embeddings, not normalised."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from torch import Tensor

from featspace.errors import FeatspaceError, UsageError, suggest
from featspace.hub import Source
from featspace.networks import Network, explained
from featspace.preprocessing import from_open_clip


def source(name: str) -> Source:
    """`<model>/<tag>` on the hub. Raises UsageError for an unknown one, FeatspaceError for a mere pickle."""
    model_name, _, tag = name.partition("/")
    if model_name not in open_clip.list_models():
        close = suggest(model_name, open_clip.list_models())
        raise UsageError(f"open_clip:{name}: open_clip has no model {model_name!r}{close}")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag not in tags:
        missing = f"no weights {tag!r}" if tag else "the weights are named after a slash"
        raise UsageError(f"open_clip:{name}: {missing}; its tags are {', '.join(tags) or 'none'}")
    repo, file = _published(name)
    if not repo:
        raise FeatspaceError(f"open_clip:{name}: published only as a pickle, which can run code when it is loaded")
    return Source(repo, (file,))


def load(name: str, folder: Path | None) -> Network:
    """`<model>/<tag>` with the weights in a folder of the hub's cache. Raises FeatspaceError if they do not fit."""
    model_name, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(model_name, tag)
    return _network(
        f"open_clip:{name}",
        model_name,
        weights=folder is not None,
        pretrained=None if folder is None else str(folder / _published(name)[1]),
        # What belongs to a tag, open_clip leaves out when it is given the weights as a file, and even given
        # the tag it only warns of a wrong activation.
        force_quick_gelu=config.get("quick_gelu", False),
        force_preprocess_cfg=config,
    )


def load_folder(folder: Path, config: dict[str, Any], weights: bool = True) -> Network:
    """A folder with open_clip_config.json (`config`) and open_clip_model.safetensors."""
    if "hf_model_name" in config.get("model_cfg", {}).get("text_cfg", {}):
        advice = "use open_clip:<model>/<tag>"
        raise FeatspaceError(f"{folder}: its text tower is described on the hub, not here; {advice}")
    return _network(folder, f"local-dir:{folder}", weights)


def _published(name: str) -> tuple[str, str]:
    """Repository, if any, and file."""
    model_name, _, tag = name.partition("/")
    repo, _, file = open_clip.get_pretrained_cfg(model_name, tag).get("hf_hub", "").rpartition("/")
    return repo, str(Path(file or "open_clip_model").with_suffix(".safetensors"))


def _network(source: str | Path, name: str, weights: bool, **options: Any) -> Network:
    options |= {"load_weights": weights, "require_pretrained": weights, "device": torch.get_default_device()}
    quiet = nullcontext() if weights else patch.object(logging, "warning")  # that they are random
    with explained(source), quiet:
        model = open_clip.create_model(name, **options)
        dim = open_clip.get_model_config(name)["embed_dim"]
        preprocess = from_open_clip(model.visual.preprocess_cfg)

    @cache
    def tokenizer() -> Any:  # when the first text comes, as not every folder has what it needs
        with explained(source):
            return open_clip.get_tokenizer(name)

    def text(model: Any, texts: list[str]) -> Tensor:
        return model.encode_text(tokenizer()(texts).to(next(model.parameters()).device))

    return Network(model, preprocess, dim, _feature, text=text, trunk=attrgetter("visual"))


def _feature(model: Any, inputs: Tensor) -> Tensor:
    return model.encode_image(inputs)

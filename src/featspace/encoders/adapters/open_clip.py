"""open_clip: the features are the image and text embeddings, not normalised."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from featspace.encoders.adapters import Layers, Network, Tokens, warn_of_cut
from featspace.encoders.adapters import timm as timm_networks
from featspace.encoders.feature_maps import UNPOOLED, FeatureMap, at_layer
from featspace.encoders.preprocessing import from_open_clip
from featspace.hub.sources import open_clip_file
from featspace.utils.errors import FeatspaceError, explained


def load(name: str, folder: Path | None) -> Network:
    """`<model>/<tag>` with the weights in a folder of the hub's cache. Raises FeatspaceError if they do not fit."""
    model_name, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(model_name, tag)
    return _network(
        f"open_clip:{name}",
        model_name,
        weights=folder is not None,
        pretrained=None if folder is None else str(folder / open_clip_file(name)[1]),
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
    if "trust_remote_code" in json.dumps(config):  # which open_clip would pass on to who reads its tokenizer
        raise FeatspaceError(
            f"{folder}: asks to run code that lies beside its weights (trust_remote_code); remove that"
        )
    return _network(folder, f"local-dir:{folder}", weights)


def _network(source: str | Path, name: str, weights: bool, **options: Any) -> Network:
    options |= {"load_weights": weights, "require_pretrained": weights, "device": torch.get_default_device()}
    with explained(source), _quiet(not weights):
        model = open_clip.create_model(name, **options)
        preprocess = from_open_clip(model.visual.preprocess_cfg)

    @cache
    def tokenizer() -> Any:  # when the first text comes, as not every folder has what it needs
        with explained(source):
            return open_clip.get_tokenizer(name)

    def text(model: Any, texts: list[str]) -> Tensor:
        for each in texts:
            warn_of_cut(each, _tokens(tokenizer(), each), tokenizer().context_length)
        return model.encode_text(tokenizer()(texts).to(next(model.parameters()).device))

    inner = isinstance(model.visual, open_clip.timm_model.TimmModel)
    trunk, maps = ("visual.trunk", timm_networks.maps) if inner else ("visual", _maps)
    return Network(model, preprocess, _feature, maps, text=text, trunk=attrgetter(trunk))


@contextmanager
def _quiet(random: bool) -> Iterator[None]:
    """Keeps open_clip from warning, on the root logger, that weights are random, where they are meant to be."""

    def keep(record: logging.LogRecord) -> bool:
        return not (random and record.module == open_clip.factory.__name__.rpartition(".")[2])

    logging.getLogger().addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(keep)


def _tokens(tokenizer: Any, text: str) -> int:
    """How many tokens a text has, start and end included."""
    if isinstance(tokenizer, open_clip.tokenizer.SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)  # of Hugging Face


def _feature(model: Any, inputs: Tensor) -> Tensor:
    return model.encode_image(inputs)


def _maps(visual: Any, layer: str, inputs: Tensor) -> FeatureMap:
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        layers, last = Layers([f"layer{i}" for i in (1, 2, 3, 4)], channels_last=False), "layer4"
    elif isinstance(visual, open_clip.transformer.VisionTransformer):
        rows, columns = (size // patch for size, patch in zip(inputs.shape[2:], visual.patch_size, strict=True))
        names = [f"transformer.resblocks.{i}" for i in range(visual.transformer.layers)]
        layers, last = Layers(names, Tokens(1, (rows, columns))), "transformer"
    else:
        raise FeatspaceError(f"{type(visual).__name__}: its feature maps are not known; leave out the layer")
    return at_layer(visual, last if layer == UNPOOLED else layer, inputs, layers)

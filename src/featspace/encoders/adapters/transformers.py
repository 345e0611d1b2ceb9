"""transformers: CLIP and SigLIP by image and text features, not normalised; DINOv2 by its class token."""

from __future__ import annotations

from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from featspace.encoders.adapters import Layers, Network, Tokens, warn_of_cut
from featspace.encoders.feature_maps import UNPOOLED, FeatureMap, at_layer
from featspace.encoders.preprocessing import from_transformers
from featspace.utils.errors import FeatspaceError, UsageError, explained

WITH_TEXT = ("clip", "siglip")
SUPPORTED = (*WITH_TEXT, "dinov2", "dinov2_with_registers")
WITHOUT_CLASS_TOKEN = ("siglip",)


def load(repo: str, folder: Path) -> Network:
    """A repository, from its folder in the hub's cache. Raises UsageError for another kind of model, FeatspaceError."""
    return _network(f"transformers:{repo}", folder)


def load_folder(folder: Path, config: dict[str, Any], weights: bool = True) -> Network:
    """A folder with config.json, model.safetensors, preprocessor_config.json and a tokenizer for texts.

    Its weights are read in any case.
    """
    return _network(str(folder), folder)


def _network(source: str, folder: Path) -> Network:
    def read(auto: Any, **options: Any) -> Any:
        with explained(source):
            return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)

    config = read(AutoConfig)
    kind = config.model_type
    if kind not in SUPPORTED:
        raise UsageError(f"{source}: a model of type {kind!r}; supported are {', '.join(SUPPORTED)}")
    # In single precision, as the default is the precision of the file.
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = read(AutoModel, **options)
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        first = min(report["missing_keys"])
        raise FeatspaceError(f"{source}: its weights lack {first}; get them again")
    processor = read(AutoImageProcessor)
    with explained(source):
        preprocess = from_transformers(processor)
    maps = partial(_maps, prefix=kind not in WITHOUT_CLASS_TOKEN)
    if kind not in WITH_TEXT:
        return Network(model, preprocess, _class_token, maps)
    tokenizer = cache(partial(read, AutoTokenizer))

    def text(model: Any, texts: list[str]) -> Tensor:
        # Full length without a mask, as SigLIP was trained; CLIP looks at nothing after a text's end.
        length = model.config.text_config.max_position_embeddings
        for each in texts:
            warn_of_cut(each, len(tokenizer()(each, verbose=False).input_ids), length)
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return _pooled(model.get_text_features(tokenizer()(texts, **options).input_ids.to(model.device)))

    return Network(model, preprocess, _image_embedding, maps, text=text, trunk=attrgetter("vision_model"))


def _image_embedding(model: Any, inputs: Tensor) -> Tensor:
    return _pooled(model.get_image_features(inputs))


def _class_token(model: Any, inputs: Tensor) -> Tensor:
    return model(inputs).last_hidden_state[:, 0]  # after the last layer norm; pooler_output is the same


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output  # before and since transformers 5


def _maps(trunk: Any, layer: str, inputs: Tensor, prefix: int) -> FeatureMap:
    rows, columns = (size // trunk.config.patch_size for size in inputs.shape[2:])
    tokens = Tokens(prefix + getattr(trunk.config, "num_register_tokens", 0), (rows, columns))
    layers = Layers([name for name, _ in trunk.named_modules() if name.rpartition(".")[2].isdigit()], tokens)
    if layer == UNPOOLED:
        return at_layer(trunk, layer, inputs, layers, _last)
    return at_layer(trunk, layer, inputs, layers)


def _last(trunk: Any, inputs: Tensor) -> Tensor:
    return trunk(inputs).last_hidden_state

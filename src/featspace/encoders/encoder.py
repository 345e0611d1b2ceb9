"""Any vision network as a differentiable function from images in [0, 1] to features."""

from __future__ import annotations

import importlib
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featspace.encoders.adapters import Network
from featspace.encoders.feature_maps import POOLED
from featspace.encoders.folding import fold_batch_norms
from featspace.encoders.preprocessing import other_channels
from featspace.hub import is_published, resolve
from featspace.utils.devices import weights_sum
from featspace.utils.errors import FeatspaceError, UsageError, explained, one_line
from featspace.utils.texts import parse_json


class Encoder(nn.Module):
    """A frozen network with its preprocessing, for the features of targets and for guidance alike.

    The feature is raw, not normalised: what the classifier is given (timm, torchvision), the image embedding
    (open_clip, and CLIP and SigLIP of transformers), the class token (DINOv2 of transformers).

    With `layer` the feature is that layer's map instead, flattened (`featspace.encoders.feature_maps`).

    Attributes:
        network: the name it was loaded by, and the layer.
        dim: size of the feature.
        shape: (dim,), or of a layer's map (C, h, w).
        weights: SHA-256 of all parameters and buffers as they were loaded; None on the meta device.
        input_size: (height, width) in pixels that images are brought to.
        has_text, has_classifier: whether `encode_text` and `classify` can be used.
    """

    def __init__(self, name: str, network: Network, layer: str | None = None, input_size: int | None = None) -> None:
        super().__init__()
        self.network, self.layer = name if layer is None else f"{name} at {layer}", layer
        self.model, self.preprocess = network.model, network.preprocess
        if input_size is not None:
            self.preprocess = self.preprocess.whole(input_size)
        self._feature, self._logits, self._trunk = network.feature, network.logits, network.trunk
        self._text = network.text if layer is None else None  # a text has no map
        self.requires_grad_(False).eval()
        blank = torch.zeros(2, 3, *self.input_size, device=next(self.model.parameters()).device)
        self.shape: tuple[int, ...] = self._shape_of_feature(blank[:1])
        self.weights: str | None = None
        if blank.device.type != "meta":
            self.weights = weights_sum(self.model)
            self._hasten()
        self._map = None
        if layer is not None:
            with torch.no_grad(), _no_autocast(blank.device):
                self._map = network.maps(self._trunk(self.model), layer, self._inputs(blank))
            self.shape = tuple(self.spatial(blank[:1]).shape[1:])
        elif len(self.shape) != 1:
            given = f"what it makes of an image is no vector, but of shape {list(self.shape)}"
            raise FeatspaceError(f"{given}, as it does not pool; name a layer, such as unpooled, to decode that map")
        self.dim = math.prod(self.shape)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.preprocess.crop

    @property
    def mean(self) -> Tensor:
        """Mean that is subtracted from images in [0, 1], shape (1, 3, 1, 1)."""
        return self.preprocess.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation that images are divided by, shape (1, 3, 1, 1)."""
        return self.preprocess.std

    @property
    def has_text(self) -> bool:
        return self._text is not None

    @property
    def has_classifier(self) -> bool:
        return self._logits is not None

    def _shape_of_feature(self, image: Tensor) -> tuple[int, ...]:
        """() for a network that makes none. Raises FeatspaceError for that without a layer, or for images not RGB."""
        try:
            with torch.no_grad(), _no_autocast(image.device):
                return tuple(self._feature(self.model, self._inputs(image)).shape[1:])
        except NotImplementedError as error:  # as of timm's networks that are encoders alone
            if self.layer is not None:
                return ()
            raise FeatspaceError(
                f"makes no vector of an image ({one_line(error)}); name a layer, such as unpooled"
            ) from error
        except RuntimeError as error:
            convs = [module for module in self._trunk(self.model).modules() if isinstance(module, nn.Conv2d)]
            if not convs or convs[0].in_channels == 3:
                raise
            raise other_channels(convs[0].in_channels) from error

    def _hasten(self) -> None:
        """Folds batch normalizations and lays images out as convolutions like it: the same function in less time."""
        like = next(self.model.parameters())
        noise = torch.randn(1, 3, *self.input_size, generator=torch.Generator().manual_seed(0), device="cpu").to(like)
        fold_batch_norms(self._trunk(self.model), noise, self.layer)
        self.model.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Encoder:
        """Always stays in evaluation mode: an image's feature does not depend on the batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, dim) in float32 of images (N, 3, H, W) in [0, 1] of any size, differentiable.

        Computed in the precision of the parameters, also under autocast; images are resized in float32 at least.
        """
        return self.spatial(images).flatten(1)

    def spatial(self, images: Tensor) -> Tensor:
        """Maps (N, C, h, w) in float32 at `layer`; without one the feature itself as a map of one position."""
        with _no_autocast(images.device):
            inputs = self._inputs(images)
            if self._map is None:
                return self._feature(self.model, inputs)[:, :, None, None].float()
            return self._map(self._trunk(self.model), inputs).float()

    def pooled(self, images: Tensor) -> Tensor:
        """The network's own feature (N, D) in float32 of images as for `forward`, whatever `layer` is."""
        with _no_autocast(images.device):
            return self._feature(self.model, self._inputs(images)).float()

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, classes) in float32 of images as for `forward`.

        Raises FeatspaceError if the network has no classifier.
        """
        if self._logits is None:
            raise FeatspaceError(f"{self.network}: has no classifier; name a network that has one")
        with _no_autocast(images.device):
            return self._logits(self.model, self._inputs(images)).float()

    @torch.no_grad()
    def class_weights(self) -> Tensor:
        """The rows of the classifier, (classes, D) float32: of each class the direction in which its logit grows most.

        Raises FeatspaceError if the network has no classifier, or none that is linear in its feature.
        """
        like = next(self.model.parameters())
        images = torch.rand(1, 3, *self.input_size, generator=torch.Generator().manual_seed(0), device="cpu").to(like)
        logits, feature = self.classify(images), self.pooled(images)
        shape = logits.shape[1], feature.shape[1]
        linear = [x for x in self.model.modules() if isinstance(x, nn.Linear) and x.weight.shape == shape]
        for module in linear:  # by what it computes, as each library calls it otherwise
            if torch.allclose(module(feature.to(like)).float(), logits, rtol=1e-3, atol=1e-4):
                return module.weight.float()
        raise FeatspaceError(f"{self.network}: has no linear classifier of its feature; leave out its classes")

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Features (N, dim) in float32 of texts, cut at the network's context length, which a line on standard
        error says once a text.

        Raises FeatspaceError if the network has no text tower, or its tokenizer is missing.
        """
        if self._text is None:
            raise FeatspaceError(f"{self.network}: has no text tower; name a CLIP or SigLIP network")
        with _no_autocast(next(self.parameters()).device):
            return self._text(self.model, texts).float()

    def _inputs(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images of shape {tuple(images.shape)}, expected (N, 3, H, W)")
        dtype = next(self.model.parameters()).dtype
        inputs = self.preprocess(images.to(torch.promote_types(dtype, torch.float32)))  # CPUs do not resize in half
        return inputs.to(dtype).contiguous(memory_format=torch.channels_last)


def _no_autocast(device: torch.device) -> AbstractContextManager:
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def load_encoder(
    network: str,
    root: Path = Path(),
    weights: bool = True,
    layer: str | None = None,
    input_size: int | None = None,
) -> Encoder:
    """Loads a network on the CPU in single precision.

    Args:
        network: `timm:<model>[.<tag>]`, `open_clip:<model>/<tag>`, `torchvision:<model>/<WEIGHTS>`,
            `transformers:<repo>` (CLIP, SigLIP, DINOv2), `package:<model>`, or a folder in the layout of timm,
            open_clip or transformers, which is verified (`hub.resolve`) and read without network access.
        root: folder that a relative folder is relative to, and whose lock pins published networks (`hub.resolve`).
        weights: False leaves them random and, but for transformers, needs none: to plan a run, and to measure speed;
            the network is then made on the default device (`torch.device("meta")` as well).
        layer: the feature is this layer's map: a module's name in the part that looks at images, such as `layer3` or
            `blocks.4`, or `unpooled`, what the network pools to its feature; `pooled`, as None, is the feature itself.
        input_size: pixels a side that a whole, square image is brought to, in place of what the metadata say.

    Raises UsageError for an unknown network or layer, and FeatspaceError if weights are missing, altered, pickled, do
    not fit or cannot be fetched, and for a network of other images than RGB, or, without `layer`, one that does not
    pool.
    """
    layer = None if layer == POOLED else layer
    if not is_published(network, root):
        return _encoder(network, _load_folder(resolve(network, root), weights), layer, input_size)
    family, _, name = network.partition(":")
    library = importlib.import_module(f"featspace.encoders.adapters.{family}")
    needed = weights or family == "transformers"  # whose architectures are known from their repositories alone
    loaded = library.load(name, resolve(network, root) if needed else None)
    return _encoder(network, loaded, layer, input_size)


def _encoder(name: str, network: Network, layer: str | None, input_size: int | None) -> Encoder:
    with explained(name):
        try:
            return Encoder(name, network, layer, input_size)
        except (RuntimeError, AssertionError) as error:
            if input_size is None:
                raise
            raise UsageError(f"does not take images of {input_size} pixels ({one_line(error)})") from error


def _load_folder(folder: Path, weights: bool) -> Network:
    if (folder / "open_clip_config.json").is_file():
        config = _read(folder / "open_clip_config.json")
        library, file = "open_clip", "open_clip_model.safetensors"
    else:
        config = _read(folder / "config.json")
        library, file = "timm" if "architecture" in config else "transformers", "model.safetensors"
        if not {"architecture", "model_type"} & config.keys():
            where = folder / "config.json"
            raise FeatspaceError(f"{where}: has neither architecture (timm) nor model_type (transformers)")
    if not (folder / file).is_file():
        raise FeatspaceError(f"{folder / file}: the weight file is missing; get it again")
    return importlib.import_module(f"featspace.encoders.adapters.{library}").load_folder(folder, config, weights)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        wanted = "config.json (timm, transformers) or open_clip_config.json"
        raise FeatspaceError(f"{path.parent}: not the folder of a network, as it has no {wanted}") from error
    except (OSError, ValueError) as error:
        raise FeatspaceError(f"{path}: cannot be read as JSON ({one_line(error)}); get it again") from error
    if not isinstance(config, dict):
        raise FeatspaceError(f"{path}: is not the description of a network; get it again")
    return config

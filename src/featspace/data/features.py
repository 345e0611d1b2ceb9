"""Features of the targets: what the decoder gets to see of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featspace.data.targets import TABLE, slug
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.files import atomic_file
from featspace.utils.images import images_in, read_image, square, to_tensor
from featspace.utils.names import check_name

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder


NOTHING = "nothing to decode: name a photograph or a folder of them, a .safetensors file of features, or --text"


def read_features(
    path: Path, dim: int | tuple[int, ...] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Features by target id, float32, and the file's metadata: `encoder`, the network's name, and `weights`, their sum.

    Each is a vector (D,), or of a layer a map (C, h, w), as `dim` says (by default: all of one shape). Raises
    FeatspaceError if the file is missing, damaged or empty, or if a feature is of another shape or not finite, or its
    name cannot be part of a file's.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatspaceError(f"{path}: no such file of features; write it with `featspace features`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            features = {name: file.get_tensor(name) for name in sorted(file.keys())}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FeatspaceError(f"{path}: not a whole safetensors file ({error}); write it anew") from error
    if not features:
        raise FeatspaceError(f"{path}: holds no feature; write it anew with `featspace features`")
    for name, feature in features.items():
        try:
            check_name(name)
        except ValueError as error:
            named = f"the name {one_line(repr(name), 80)}, which no image can have ({error})"
            raise FeatspaceError(f"{path}: a tensor has {named}; rename it") from error
        if feature.ndim not in (1, 3) or not feature.is_floating_point():
            found = f"{feature.dtype} of shape {list(feature.shape)}"
            raise FeatspaceError(f"{path}: {name} is {found}; a feature is a vector of floats, or a map (C, h, w)")
        shape = tuple(feature.shape) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        dim = shape
        if feature.shape != shape:
            found = f"{_size(tuple(feature.shape))}, not {_size(shape)}"
            raise FeatspaceError(f"{path}: {name} has {found}: is it of another encoder?")
        if not torch.isfinite(feature).all():
            raise FeatspaceError(f"{path}: {name} holds NaN or infinite numbers; write it anew")
    return {name: feature.float() for name, feature in features.items()}, metadata


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} dimensions" if len(shape) == 1 else f"a map of shape {list(shape)}"


def expanded(sources: Iterable[Path]) -> list[Path]:
    """The sources, with each folder replaced by the photographs in it. Raises FeatspaceError if there is none in it."""
    found: list[Path] = []
    for source in sources:
        photographs = images_in(source) if source.is_dir() else [source]
        if not photographs:
            raise FeatspaceError(f"{source}: no photograph in this folder; name another, or a file")
        found += photographs
    return found


def count_features(sources: Iterable[Path], texts: Iterable[str], encoder: Encoder | None = None) -> int:
    """How many targets `gather_features` will find. Raises as that does; without a network, for what is seen so."""
    return len(_origins(sources, texts, encoder))


def _origins(sources: Iterable[Path], texts: Iterable[str], encoder: Encoder | None) -> dict[str, str]:
    """Where each target comes from, by id: the sources, then the texts themselves, numbered where an id is taken."""
    names: dict[str, str] = {}
    sources = expanded(sources)

    def add(name: str, origin: str) -> None:
        if name in names:
            raise UsageError(f"{origin}: a second target with the id {name}, after {names[name]}; rename one")
        names[name] = origin

    for source in sources:
        if source.suffix.lower() == ".safetensors":
            features, metadata = read_features(source, None if encoder is None else encoder.shape)
            if encoder is not None:
                check_origin(source, metadata, encoder)
            for name in features:
                add(name, str(source))
        else:
            read_image(source)
            add(_photograph_id(source), str(source))
    for text in texts:
        if encoder is not None and not encoder.has_text:
            raise FeatspaceError(f"{encoder.network}: has no text tower; name a CLIP or SigLIP network")
        number = next(n for n in count(1) if _numbered(slug(text), n) not in names)
        add(_numbered(slug(text), number), text)
    if not names:
        raise UsageError(NOTHING)
    return names


def _photograph_id(path: Path) -> str:
    """Of a photograph in a folder of targets, its file is named after its id already."""
    return path.stem if (path.parent / TABLE).is_file() else slug(path.stem)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def check_origin(path: Path, metadata: Mapping[str, str], encoder: Encoder) -> None:
    """Raises FeatspaceError if a file's metadata say that its features are of another network, layer or weights.

    The network's folder may lie elsewhere by now. Files that say nothing pass; of a network without weights, as a plan
    has, only its name is compared.
    """
    name, weights = metadata.get("encoder", encoder.network), metadata.get("weights")
    if Path(name).name != Path(encoder.network).name:
        raise FeatspaceError(f"{path}: features of {name}, not of {encoder.network}; name its own")
    if weights and encoder.weights and weights != encoder.weights:
        other = f"features of {name} with other weights than those of {encoder.network} now"
        raise FeatspaceError(f"{path}: {other}; write them anew with `featspace features`")


def write_features(features: Mapping[str, Tensor], encoder: Encoder, out: Path) -> None:
    """Writes features by target id, as `read_features` reads them, with the network's name and the sum of its weights.

    The same bytes for the same features, unlike safetensors' own of several metadata.
    """
    content = save(dict(features), metadata={"encoder": encoder.network, "weights": encoder.weights or ""})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    with atomic_file(out) as partial:
        partial.write_bytes(len(ordered).to_bytes(8, "little") + ordered + content[8 + length :])


@torch.no_grad()
def gather_features(
    encoder: Encoder, sources: Iterable[Path], texts: Iterable[str], resolution: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Target features (D,) by id, of photographs or folders of them, .safetensors files of features, and texts; and
    the photographs.

    The latter are cropped to the square of `resolution` pixels that the decoder makes, (3, H, W) in [0, 1], by id.
    A text whose id is taken gets a number after it. Raises UsageError for two photographs or features of one id and for
    none at all, FeatspaceError for what cannot be read.
    """
    sources, texts = expanded(sources), list(texts)
    origins = _origins(sources, texts, encoder)
    device = next(encoder.parameters()).device
    features: dict[str, torch.Tensor] = {}
    photographs: dict[str, torch.Tensor] = {}
    for source in sources:
        if source.suffix.lower() == ".safetensors":
            found = read_features(source, encoder.shape)[0]
            features |= {name: feature.flatten() for name, feature in found.items()}
        else:
            image = to_tensor(square(read_image(source), resolution))
            features[_photograph_id(source)] = encoder(image[None].to(device))[0].float().cpu()
            photographs[_photograph_id(source)] = image
    for name, text in list(origins.items())[len(features) :]:
        features[name] = encoder.encode_text([text])[0].float().cpu()
    return features, photographs


def feature_and_class(encoder: Encoder, image: Image.Image) -> tuple[Tensor, int | None]:
    """The feature of an image, (D,) float32 on the CPU, and its top-1 class, None without a classifier."""
    feature, classes = feature_and_classes(encoder, image)
    return feature, classes[0] if classes else None


def feature_and_classes(encoder: Encoder, image: Image.Image, count: int = 1) -> tuple[Tensor, list[int]]:
    """The feature of an image, (D,) float32 on the CPU, and its first `count` classes, none without a classifier.

    One image at a time and without TF32: the numbers depend neither on a batch nor on a GPU's shortcuts.
    """
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        batch = to_tensor(image)[None].to(next(encoder.parameters()).device)
        classes = []
        if encoder.has_classifier:
            logits = encoder.classify(batch)[0]
            classes = logits.topk(min(count, len(logits))).indices.tolist()
        return encoder(batch)[0].float().cpu(), classes

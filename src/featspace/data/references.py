"""Features of photographs to compare with, which are shipped where the photographs themselves may not be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from featspace.utils.errors import FeatspaceError
from featspace.utils.texts import parse_json


class References(NamedTuple):
    """Features of photographs, and what is on them."""

    features: Tensor
    """(N, D) float32."""
    classes: list[str] | None
    """The class of each; None where that is not known."""

    def mean(self, name: str) -> Tensor:
        """The mean feature of a class, (D,). Raises KeyError if there is none of that name."""
        rows = [index for index, own in enumerate(self.classes or []) if own == name]
        if not rows:
            raise KeyError(name)
        return self.features[rows].mean(0)


def read_references(path: Path, dim: int) -> References:
    """The tensor `features` (N, dim) of a safetensors file, and by `labels` (N,) the metadata's `classes`, a JSON list.

    The latter two may be missing. Raises FeatspaceError if the file or `features` is missing, damaged, of another shape
    or not finite, or if the labels do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        names = parse_json(metadata["classes"]) if "labels" in found else []
    except FileNotFoundError:
        raise FeatspaceError(f"{path}: no such file; restore it from the checkout") from None
    except (SafetensorError, OSError) as error:
        raise FeatspaceError(f"{path}: not a whole safetensors file ({error}); restore it") from None
    except (KeyError, ValueError):
        raise FeatspaceError(f"{path}: has labels, but no list of classes; write it again") from None
    features = found.get("features")
    if features is None or features.ndim != 2 or features.shape[1] != dim or len(features) == 0:
        raise FeatspaceError(f"{path}: holds no `features` of shape (N, {dim}); name the encoder's own")
    if not features.isfinite().all():
        raise FeatspaceError(f"{path}: holds NaN or infinite values; write it again")
    if "labels" not in found:
        return References(features.float(), None)
    labels = found["labels"].tolist()
    if len(labels) != len(features) or not all(0 <= label < len(names) for label in labels):
        raise FeatspaceError(f"{path}: its labels are not those of {len(features)} photographs; write it again")
    return References(features.float(), [names[label] for label in labels])

"""Features that no photograph has, between two targets and of classes: made, and what they decode to is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from featspace.config.experiments import MixtureParams
from featspace.data.features import feature_and_class, feature_and_classes, read_features, write_features
from featspace.data.references import read_references
from featspace.metrics.similarity import cosine_similarity
from featspace.stages.similarity import targets_with_features
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.images import read_image
from featspace.utils.tables import DECODED, MIXED, MIXTURES, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder

BETWEEN, MEAN, PROTOTYPE = "between", "mean", "prototype"


class Mixture(NamedTuple):
    """A feature, and what it is: `share` of the way from target `first` to `second`, or class `first` at `place`."""

    id: str
    kind: str  # BETWEEN, MEAN or PROTOTYPE
    first: str
    second: str
    share: float
    place: int | None
    feature: Tensor  # (D,)


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The feature a share of the way along the arc from one direction (D,) to the other; lengths change evenly.

    Spherical interpolation (Shoemake 1985), as between CLIP's embeddings in unCLIP (Ramesh et al. 2022).
    """
    a, b = first.double(), second.double()
    angle = torch.arccos(cosine_similarity(a, b))
    length = (1 - share) * a.norm() + share * b.norm()
    if angle.sin() < 1e-6:  # the same direction, or opposite ones, between which no arc is the shortest
        return ((1 - share) * a + share * b).float()
    direction = (torch.sin((1 - share) * angle) * a / a.norm() + torch.sin(share * angle) * b / b.norm()) / angle.sin()
    return (length * direction).float()


def _mixtures(
    encoder: Encoder, params: MixtureParams, features: dict[str, Tensor], photos: list[Tensor], photographs: Path | None
) -> Iterator[Mixture]:
    for first, second in params.between:
        if missing := [name for name in (first, second) if name not in features]:
            raise UsageError(f"mixtures.between names {missing[0]}, of which there is no feature of {encoder.network}")
        for share in params.at:
            feature = between(features[first], features[second], share)
            yield Mixture(f"{first}_to_{second}_{share * 100:g}", BETWEEN, first, second, share, None, feature)
    if not params.classes:
        return
    weights = encoder.class_weights().cpu()
    known = None if photographs is None else read_references(photographs, encoder.dim)
    if not photos:
        raise FeatspaceError("mixtures.classes: no photograph among the targets, whose length a prototype could have")
    length = torch.stack(photos).norm(dim=1).median()
    for name, place in params.classes.items():
        if place >= len(weights):
            raise UsageError(f"mixtures.classes.{name} is {place}: the classifier has {len(weights)} classes, from 0")
        if known is not None and name in (known.classes or []):
            yield Mixture(f"mean_{name}", MEAN, name, "", np.nan, place, known.mean(name))
        prototype = weights[place] * length / weights[place].norm()
        yield Mixture(f"prototype_{name}", PROTOTYPE, name, "", np.nan, place, prototype)


def run_mix(
    encoder: Encoder, params: MixtureParams, targets: Path, features_file: Path, out: Path, photographs: Path | None
) -> None:
    """Writes a file of features, and beside it a CSV (tables.MIXTURES) that says of each what it is.

    Between two targets: `between`. Of a class: the mean feature of its photographs, where `photographs` (see
    `read_references`) has some; and the prototype, the classifier's weights of it, as long as the median photograph's
    feature. Raises UsageError for targets and classes that there are not, FeatspaceError for files that cannot be read.
    """
    wanted = targets_with_features(encoder, targets, features_file)
    features = {target.id: feature for target, feature in wanted}
    photos = [feature for target, feature in wanted if target.kind == "photo"]
    found = list(_mixtures(encoder, params, features, photos, photographs))
    if not found:
        raise UsageError("mixtures: neither between nor classes names anything; name some, or leave the encoder out")
    tensors = {mixture.id: mixture.feature.reshape(encoder.shape).contiguous() for mixture in found}
    write_table(pd.DataFrame(found).drop(columns="feature"), out.with_suffix(".csv"))
    write_features(tensors, encoder, out)


def run_mixtures(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    targets: Path,
    features_file: Path,
    mixed: Path,
    decoded: Path,
    folder: Path,
    out: Path,
) -> None:
    """Writes a CSV with tables.MIXED's columns: a row an image decoded from a mixture, or from the ends of one.

    mixed: what `run_mix` wrote; folder: its decoded images; decoded: those of the targets, which are the ends, with the
    shares 0 and 1. Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    wanted = targets_with_features(encoder, targets, features_file)
    features = {target.id: feature for target, feature in wanted}
    photos = {target.id for target, _ in wanted if target.kind == "photo"}
    judged = {id: feature_and_class(judge, read_image(Path(targets) / f"{id}.png"))[0] for id in sorted(photos)}
    own = {id: feature.flatten() for id, feature in read_features(mixed, encoder.shape)[0].items()}
    table = read_table(mixed.with_suffix(".csv"), MIXTURES)
    samples = read_table(Path(folder) / "decoded.csv", DECODED)
    if differing := sorted(set(table["id"]) ^ set(own) | set(own) ^ set(samples["id"])):
        raise FeatspaceError(f"{mixed} and {folder}: only one of them has '{differing[0]}'; decode again")
    images = [(row, Path(folder) / f"{row.id}-0.png", own[row.id]) for row in table.itertuples()]
    pairs = table[table["kind"] == BETWEEN][["first", "second"]].drop_duplicates()
    ends = pd.concat([pairs.assign(id=pairs["first"], share=0.0), pairs.assign(id=pairs["second"], share=1.0)])
    ends = ends.assign(kind=BETWEEN, place=np.nan)
    images += [(row, Path(decoded) / f"{row.id}-0.png", features[row.id]) for row in ends.itertuples()]
    rows = []
    for row, path, feature in images:
        image = read_image(path)
        seen, (judge_seen, classes) = feature_and_class(encoder, image)[0], feature_and_classes(judge, image, 5)
        first, second = (features.get(end) for end in (row.first, row.second))
        to: dict[str, tuple[Tensor | None, Tensor | None]] = {"cosine": (seen, feature), "cosine_ends": (first, second)}
        to |= {"cosine_first": (seen, first), "cosine_second": (seen, second)}
        to |= {f"judge_{end}": (judge_seen, judged.get(getattr(row, end))) for end in ("first", "second")}
        measured = {key: _cosine(*pair) for key, pair in to.items()}
        is_class = row.kind != BETWEEN and bool(classes)
        measured["judge_top1"] = float(row.place == classes[0]) if is_class else np.nan
        measured["judge_top5"] = float(row.place in classes) if is_class else np.nan
        key = {"encoder": name, "id": row.id, "kind": row.kind, "first": row.first, "second": row.second}
        rows.append({**key, "share": row.share, **measured})
    write_table(pd.DataFrame(rows, columns=list(MIXED)), out)


def _cosine(a: Tensor | None, b: Tensor | None) -> float:
    return np.nan if a is None or b is None else cosine_similarity(a, b).item()

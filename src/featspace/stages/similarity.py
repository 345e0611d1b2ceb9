"""How near decoded images come to their targets, measured from the saved PNGs, and references for scale."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from featspace.data.features import check_origin, feature_and_class, read_features
from featspace.data.references import read_references
from featspace.data.targets import Target, read_targets
from featspace.metrics.similarity import Nearness, cosine_similarity, squared_distance
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import jpeg_copy, read_image, shifted
from featspace.utils.tables import DECODED, REFERENCES, SIMILARITY, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder


def compare(
    encoder: Encoder,
    judge: Encoder,
    feature: Tensor,
    photo: Image.Image | None,
    images: Sequence[Image.Image],
) -> list[dict[str, float | int | None]]:
    """Measures decoded images x against one target.

    feature: target feature f*, (D,). photo: the photograph it was taken from, None for a caption.
    Returns for each image: distance ‖f(x) − f*‖²; cosine of f(x) and f*; judge_cosine of the judge's features
    of x and of the photograph; top1_agrees and judge_top1_agrees, 1 if the network's own classifier puts both
    in the same class, else 0. None where there is no photograph or no classifier.
    """

    def agree(seen: int | None, original: int | None) -> int | None:
        return None if seen is None or original is None else int(seen == original)

    def cosine(seen: Tensor | None, original: Tensor | None) -> float | None:
        return None if seen is None or original is None else cosine_similarity(seen, original).item()

    original_top1 = judged_original = judged_original_top1 = None
    if photo:
        _, original_top1 = feature_and_class(encoder, photo)
        judged_original, judged_original_top1 = feature_and_class(judge, photo)
    rows = []
    for image in images:
        seen, top1 = feature_and_class(encoder, image)
        judged, judged_top1 = feature_and_class(judge, image) if photo else (None, None)
        rows.append(
            {
                "distance": squared_distance(seen, feature).item(),
                "cosine": cosine_similarity(seen, feature).item(),
                "judge_cosine": cosine(judged, judged_original),
                "top1_agrees": agree(top1, original_top1),
                "judge_top1_agrees": agree(judged_top1, judged_original_top1),
            }
        )
    return rows


def targets_with_features(encoder: Encoder, targets: Path, features_file: Path) -> list[tuple[Target, Tensor]]:
    """Each target that has a feature, with it, (D,) float32, in the order of targets.csv.

    Raises FeatspaceError if the features are another encoder's, or of other targets.
    """
    features, metadata = read_features(features_file, encoder.shape)
    check_origin(features_file, metadata, encoder)
    known = read_targets(targets)
    if strangers := sorted(set(features) - {target.id for target in known}):
        raise FeatspaceError(f"{features_file}: '{strangers[0]}' is no target of {targets}; write it again")
    return [(target, features[target.id].flatten()) for target in known if target.id in features]


def run_similarity(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    targets: Path,
    features_file: Path,
    decoded: Path,
    out: Path,
    references: Path | None = None,
    only: Collection[str] = (),
) -> None:
    """Writes the table of `measure`; references: table of `run_references`, for each image's certificate (`certified`).

    Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    table = measure(name, encoder, judge, targets, features_file, decoded, only)
    if references is not None:
        table = certified(table, read_table(references, REFERENCES))
    write_table(table, out)


def measure(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    targets: Path,
    features_file: Path,
    decoded: Path,
    only: Collection[str] = (),
) -> pd.DataFrame:
    """A table with tables.SIMILARITY's columns: a row for the best and the last image of each sample.

    name: goes into the column `encoder`. targets: folder of targets.csv and <id>.png. features_file:
    safetensors, (D,) for each id. decoded: folder of decoded.csv, <id>-<sample>.png and, of the last latent,
    <id>-<sample>-last.png. only: ids of the targets that were decoded, by default all. The measures are those of
    `compare`. Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    wanted = targets_with_features(encoder, targets, features_file)
    wanted = [(target, feature) for target, feature in wanted if not only or target.id in only]
    samples = read_table(Path(decoded) / "decoded.csv", DECODED).groupby("id")["sample"].apply(sorted)
    if differing := sorted(set(samples.index) ^ {target.id for target, _ in wanted}):
        where = f"{decoded}/decoded.csv and {features_file}"
        raise FeatspaceError(f"{where}: only one of them has target '{differing[0]}'; decode again")
    rows = []
    for target, feature in wanted:
        photo = read_image(Path(targets) / f"{target.id}.png") if target.kind == "photo" else None
        for sample in samples[target.id]:
            files = {"best": f"{target.id}-{sample}.png", "last": f"{target.id}-{sample}-last.png"}
            images = [read_image(Path(decoded) / file) for file in files.values()]
            measured = compare(encoder, judge, feature, photo, images)
            key = {"encoder": name, "id": target.id, "sample": sample, "kind": target.kind}
            rows += [{**key, "image": image, **row} for image, row in zip(files, measured, strict=True)]
    table = pd.DataFrame(rows, columns=list(SIMILARITY))
    return table.astype({"top1_agrees": "Int64", "judge_top1_agrees": "Int64"})


def certified(table: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `nearer_than_<reference>` for each reference, such as nearest_photo or jpeg_75.

    1 if the image's squared distance to its target is less than that of the target's reference, else 0; empty where the
    target has no such reference, as a caption has no JPEG copy. Both sides are measured alike, from 8-bit images.
    """
    limits = references.set_index(["encoder", "id", "reference"])["distance"].unstack()
    own = limits.reindex(pd.MultiIndex.from_frame(table[["encoder", "id"]]))
    columns = {}
    for reference in sorted(limits):
        limit = own[reference].reset_index(drop=True)
        nearer = (table["distance"] < limit).astype("Int64")
        columns[f"nearer_than_{reference}"] = nearer.where(limit.notna())
    return table.assign(**columns)


def run_references(
    name: str,
    encoder: Encoder,
    targets: Path,
    features_file: Path,
    out: Path,
    reference_features: Path | None = None,
    jpeg: Sequence[int] = (95, 75, 50),
) -> None:
    """Writes a CSV with tables.REFERENCES' columns: what a distance and a cosine mean, for each target.

    nearest_photo: the smallest distance and the largest cosine over reference photographs (not necessarily of
    the same one); median_photo: the medians over them; jpeg_<quality>, shift_1px: copies of the target
    photograph itself. reference_features: safetensors with `features` (N, D); without it the references are the
    other targets' photographs. Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    wanted = targets_with_features(encoder, targets, features_file)
    if reference_features is None:
        names = [target.id for target, _ in wanted if target.kind == "photo"]
        own = [feature for target, feature in wanted if target.kind == "photo"]
        photographs = torch.stack(own) if own else torch.empty(0, encoder.dim)
    else:
        names, photographs = [], read_references(reference_features, encoder.dim).features
    place, near = {name: index for index, name in enumerate(names)}, Nearness(photographs)
    rows: list[tuple[str, str, str, float, float]] = []
    for target, feature in wanted:
        distances, cosines = (each.numpy() for each in near(feature))
        if target.id in place:  # not the target itself
            distances, cosines = (np.delete(each, place[target.id]) for each in (distances, cosines))
        if not len(distances):
            alone = f"no other photograph to compare {target.id} with"
            raise FeatspaceError(f"{targets}: {alone}; add one, or set similarity.photographs")
        rows.append((name, target.id, "nearest_photo", distances.min(), cosines.max()))
        rows.append((name, target.id, "median_photo", np.median(distances), np.median(cosines)))
        if target.kind != "photo":
            continue
        photo = read_image(Path(targets) / f"{target.id}.png")
        copies = {f"jpeg_{quality}": jpeg_copy(photo, quality) for quality in jpeg}
        for reference, copy in {**copies, "shift_1px": shifted(photo)}.items():
            seen, _ = feature_and_class(encoder, copy)
            distance, cosine = squared_distance(seen, feature), cosine_similarity(seen, feature)
            rows.append((name, target.id, reference, distance.item(), cosine.item()))
    write_table(pd.DataFrame(rows, columns=list(REFERENCES)), out)

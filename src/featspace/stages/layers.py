"""What each layer keeps: images decoded from feature maps along a network's depth, compared with their photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from featspace.data.features import feature_and_class, feature_and_classes
from featspace.data.targets import read_targets
from featspace.metrics.attributes import (
    Attributes,
    attributes,
    color_difference,
    edge_similarity,
    layout_similarity,
    texture_similarity,
)
from featspace.metrics.bootstrap import bootstrap_interval
from featspace.metrics.similarity import cosine_similarity
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import DECODED, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder

SHARES = ("judge_top1", "judge_top5")
"""Measures that are summarized by their mean; the others by their median."""
MEASURES = ("cosine", "color", "layout", "edges", "texture", "judge_cosine", *SHARES)
"""Of an image and a photograph: cosine of the layer's features; what `attributes` compares; cosine of the judge's
features; 1 if the judge's first class is the same, and if that of the photograph is among its first five of the image.
"""
OTHERS = 32
"""Other photographs, at most, that an image is held against for what is chance."""


class Seen(NamedTuple):
    """What is compared of an image, but for the layer's feature."""

    size: tuple[int, int]
    attributes: Attributes
    judged: Tensor  # the judge's feature
    classes: list[int]  # its first five


def see(judge: Encoder, path: Path) -> Seen:
    image = read_image(path)
    return Seen(image.size, attributes(np.asarray(image) / 255), *feature_and_classes(judge, image, 5))


def compare(image: Seen, photograph: Seen) -> dict[str, float]:
    """MEASURES of a decoded image against a photograph, without the layer's own `cosine`."""
    a, b = image.attributes, photograph.attributes
    classified = bool(photograph.classes)
    return {
        "color": color_difference(a, b),
        "layout": layout_similarity(a, b),
        "edges": edge_similarity(a, b),
        "texture": texture_similarity(a, b),
        "judge_cosine": cosine_similarity(image.judged, photograph.judged).item(),
        "judge_top1": float(image.classes[0] == photograph.classes[0]) if classified else np.nan,
        "judge_top5": float(photograph.classes[0] in image.classes) if classified else np.nan,
    }


def strangers(ids: Sequence[str]) -> dict[str, list[str]]:
    """For each of `ids` the others that stand for chance: the OTHERS that follow it, around the end, in order."""
    count = min(OTHERS, len(ids) - 1)
    return {
        id: [ids[index] for index in sorted((place + step) % len(ids) for step in range(1, count + 1))]
        for place, id in enumerate(ids)
    }


def run_layers(
    name: str,
    networks: Iterable[tuple[str, Encoder]],
    judge: Encoder,
    targets: Path,
    decoded: Path,
    out: Path,
    summary: Path,
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Writes two CSVs: `out`, a row an image with its MEASURES, and `summary`, a row a layer and measure (`summarize`).

    Each measure is of the image and its photograph; `<measure>_chance` is the mean over others (`strangers`).
    name: goes into the column `encoder`. networks: each layer, by depth, with the encoder at it. decoded: folder with
    <layer> with decoded.csv and <id>-<sample>.png. Captions are left out.
    Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    photos = [target.id for target in read_targets(targets) if target.kind == "photo"]
    paths = {id: Path(targets) / f"{id}.png" for id in photos}
    if not paths:
        raise FeatspaceError(f"{targets}: no photograph among the targets; layers are compared by photographs")
    photographs = {id: see(judge, path) for id, path in paths.items()}
    others = strangers(photos)
    rows = []
    for layer, encoder in networks:
        folder = Path(decoded) / layer
        features = {id: feature_and_class(encoder, read_image(path))[0] for id, path in paths.items()}
        samples = read_table(folder / "decoded.csv", {**DECODED, "evaluations": int})
        if differing := sorted(set(samples["id"]) ^ set(features)):
            where = f"{folder}/decoded.csv and {targets}"
            raise FeatspaceError(f"{where}: only one of them has photograph '{differing[0]}'; decode again")
        shape = "×".join(map(str, encoder.shape))
        for row in samples.itertuples():
            path = folder / f"{row.id}-{row.sample}.png"
            image, (feature, _) = see(judge, path), feature_and_class(encoder, read_image(path))
            key = {"encoder": name, "layer": layer, "shape": shape, "id": row.id, "sample": row.sample}
            measured = {}
            for id in (row.id, *others[row.id]):
                photograph = photographs[id]
                if image.size != photograph.size:
                    sizes = " and ".join("×".join(map(str, size)) for size in (image.size, photograph.size))
                    raise FeatspaceError(f"{path} and {targets}/{id}.png: of {sizes} pixels; decode again")
                cosine = cosine_similarity(feature, features[id]).item()
                measured[id] = {"cosine": cosine, **compare(image, photograph)}
            rows.append({**key, "evaluations": row.evaluations, **measured.pop(row.id), **_chance(measured)})
    table = pd.DataFrame(rows)
    write_table(table, out)
    write_table(summarize(table, resamples, seed), summary)


def _chance(others: dict[str, dict[str, float]]) -> dict[str, float]:
    """The means of MEASURES over other photographs; NaN without another."""
    return {f"{m}_chance": float(np.mean([x[m] for x in others.values()])) if others else np.nan for m in MEASURES}


def summarize(table: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A row for each layer, by depth, and measure, with tables.LAYERS' columns.

    value: the median over images, of SHARES the mean; low, high: its 95 % interval, bootstrapped over photographs;
    chance…: the same of what the images have in common with other photographs. A measure without numbers is left out.
    """
    rows = []
    for (encoder, layer), part in table.groupby(["encoder", "layer"], sort=False):
        key = {"encoder": encoder, "layer": layer, "shape": part["shape"].iloc[0]}
        key["evaluations"] = int(part["evaluations"].max())
        for measure in MEASURES:
            statistic = np.mean if measure in SHARES else np.median
            row = {**key, "measure": measure}
            for column, names in ((measure, ("value", "low", "high")), (f"{measure}_chance", _CHANCE)):
                numbers = [np.nan] * 3
                if part[column].notna().all():
                    groups = {id: values.to_numpy() for id, values in part[column].groupby(part["id"], sort=False)}
                    interval = bootstrap_interval(groups, statistic, resamples=resamples, seed=seed)
                    numbers = [float(statistic(part[column])), *interval]
                row |= dict(zip(names, numbers, strict=True))
            if not np.isnan(row["value"]):
                rows.append(row)
    return pd.DataFrame(rows)


_CHANCE = ("chance", "chance_low", "chance_high")

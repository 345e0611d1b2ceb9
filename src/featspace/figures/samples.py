"""What these figures read: decoded images with their cosine similarity, and a note that explains it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from featspace.data.targets import Target, read_targets
from featspace.figures.style import Row
from featspace.utils.errors import FeatspaceError
from featspace.utils.images import read_image
from featspace.utils.tables import REFERENCES, SIMILARITY, read_table

SHOWN = 24
"""Targets that a figure shows, at most: more would not fit a page."""


def read_rows(kind: str, targets: Path, decoded: Path, table: Path) -> tuple[list[Target], list[Row], pd.DataFrame]:
    """The first SHOWN targets of a kind (photo or caption), a Row for each, and the similarity of all best images."""
    wanted = [target for target in read_targets(targets) if target.kind == kind]
    best = read_table(table, SIMILARITY).query("kind == @kind and image == 'best'")
    if best.empty:
        raise FeatspaceError(f"{table}: no decoded {kind}; decode one, or draw another figure")
    if best["encoder"].nunique() > 1:
        found = ", ".join(best["encoder"].unique())
        raise FeatspaceError(f"{table}: holds encoders {found}; a figure shows one, name its own table")
    if differing := sorted({target.id for target in wanted} ^ set(best["id"])):
        raise FeatspaceError(f"{table} and {targets}: only one of them has '{differing[0]}'; measure again")
    best, rows = best.assign(label=labels(best["cosine"])), []
    for target in wanted[:SHOWN]:
        own = best[best["id"] == target.id].sort_values("sample")
        images = [read_image(Path(decoded) / f"{target.id}-{sample}.png") for sample in own["sample"]]
        rows.append(Row(target.id, list(zip(images, own["label"], strict=True))))
    return wanted[:SHOWN], rows, best


def first_of(count: int, things: str = "targets") -> str:
    """That a figure does not show all `count` of them; empty where it does."""
    return f"Shown are the first {SHOWN} of {count:,} {things}." if count > SHOWN else ""


def explain(best: pd.DataFrame, references: Path) -> str:
    """What the labels mean, their median, and that of the most similar real photograph."""
    encoder = best["encoder"].iloc[0]
    scale = read_table(references, REFERENCES).query("encoder == @encoder and reference == 'nearest_photo'")
    nearest = scale[scale["id"].isin(best["id"])]["cosine"]
    if nearest.empty:
        raise FeatspaceError(f"{references}: no nearest_photo of '{encoder}' for these targets; name its own")
    medians = labels([best["cosine"].median(), nearest.median()])
    lines = (
        f"Numbers: cosine similarity of the saved image’s feature to the target’s, encoder “{encoder}”; "
        f"median {medians[0]} over {counted(len(best), 'image')}.",
        f"For comparison, the most similar other photograph: "
        f"median {medians[1]} over {counted(len(nearest), 'target')}.",
        first_of(best["id"].nunique()),
    )
    return "\n".join(textwrap.fill(line, 125) for line in lines if line)


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def labels(cosines: Iterable[float]) -> list[str]:
    """Cosines that are compared, all with as many digits: three, or four if three would round one of them up to one."""
    cosines = list(cosines)
    digits = 3 if all(float(f"{cosine:.3f}") < 1 for cosine in cosines) else 4
    written = [f"{cosine:.{digits}f}" for cosine in cosines]
    return [text if float(text) < 1 else "> 0.9999" for text in written]

"""What these figures read: decoded images with their cosine similarity, and a note that explains it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd

from featspace.errors import FeatspaceError
from featspace.images import read_image
from featspace.plotting import Row
from featspace.tables import REFERENCES, SIMILARITY, read_table
from featspace.targets import Target, read_targets


def read_rows(kind: str, targets: Path, decoded: Path, table: Path) -> tuple[list[Target], list[Row], pd.DataFrame]:
    """Targets of a kind (photo or caption), a Row for each, and the similarity of their best images."""
    wanted = [target for target in read_targets(targets) if target.kind == kind]
    best = read_table(table, SIMILARITY).query("kind == @kind and image == 'best'")
    if best.empty:
        raise FeatspaceError(f"{table}: no decoded {kind}; decode one, or draw another figure")
    if best["encoder"].nunique() > 1:
        found = ", ".join(best["encoder"].unique())
        raise FeatspaceError(f"{table}: holds encoders {found}; a figure shows one, name its own table")
    if differing := sorted({target.id for target in wanted} ^ set(best["id"])):
        raise FeatspaceError(f"{table} and {targets}: only one of them has '{differing[0]}'; measure again")
    rows = []
    for target in wanted:
        own = best[best["id"] == target.id].sort_values("sample")
        images = [read_image(Path(decoded) / f"{target.id}-{sample}.png") for sample in own["sample"]]
        labels = [short(cosine) for cosine in own["cosine"]]
        rows.append(Row(target.id, list(zip(images, labels, strict=True))))
    return wanted, rows, best


def explain(best: pd.DataFrame, references: Path) -> str:
    """What the labels mean, their median, and that of the most similar real photograph."""
    encoder = best["encoder"].iloc[0]
    scale = read_table(references, REFERENCES).query("encoder == @encoder and reference == 'nearest_photo'")
    nearest = scale[scale["id"].isin(best["id"])]["cosine"]
    if nearest.empty:
        raise FeatspaceError(f"{references}: no nearest_photo of '{encoder}' for these targets; name its own")
    lines = (
        f"Numbers: cosine similarity of the saved image’s feature to the target’s, encoder “{encoder}”; "
        f"median {short(best['cosine'].median())} over {counted(len(best), 'image')}.",
        f"For comparison, the most similar other photograph: "
        f"median {short(nearest.median())} over {counted(len(nearest), 'target')}.",
    )
    return "\n".join(textwrap.fill(line, 125) for line in lines)


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def short(cosine: float) -> str:
    """Three digits; four where three would round up to one."""
    return next((text for text in (f"{cosine:.3f}", f"{cosine:.4f}") if float(text) < 1), "> 0.9999")

"""The similarity tables in a few numbers, each with its 95 % bootstrap interval over targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.utils.errors import FeatspaceError
from featspace.utils.tables import REFERENCES, SIMILARITY, read_table, write_json


def summarize(best: pd.DataFrame, references: pd.DataFrame, resamples: int, seed: int) -> dict:
    """Numbers of one encoder's best images of one kind; `<key>_low` and `<key>_high` are a key's interval.

    best: rows of tables.SIMILARITY. references: rows of tables.REFERENCES, the encoder's own.
    Returns targets, images (counts); median and mean of cosine, distance and judge_cosine; share of images
    whose top1 class agrees; for each reference its median distance and cosine over targets, and share_nearer,
    the share of images nearer to their target than that target's reference. What a kind lacks is left out.
    """

    def with_interval(key: str, function: Callable, values: pd.Series) -> dict[str, float]:
        by_target = {id: group.to_numpy() for id, group in values.groupby(best["id"], sort=False)}
        low, high = bootstrap_interval(by_target, function, resamples=resamples, seed=seed)
        return {key: float(function(values.to_numpy())), f"{key}_low": low, f"{key}_high": high}

    tree: dict = {"targets": best["id"].nunique(), "images": len(best), "references": {}}
    measured = best.dropna(axis="columns")
    for column in {"cosine", "distance", "judge_cosine"} & set(measured):
        values = measured[column]
        tree[column] = with_interval("median", np.median, values) | with_interval("mean", np.mean, values)
    for column in {"top1_agrees", "judge_top1_agrees"} & set(measured):
        tree[column] = with_interval("share", np.mean, measured[column])
    for reference, rows in references[references["id"].isin(best["id"])].groupby("reference"):
        nearer = best["distance"] < best["id"].map(rows.set_index("id")["distance"])
        tree["references"][reference] = {
            "distance": rows["distance"].median(),
            "cosine": rows["cosine"].median(),
            **with_interval("share_nearer", np.mean, nearer.astype(float)),
        }
    return tree


def run_metrics(
    similarities: Sequence[Path],
    references: Sequence[Path],
    out: Path,
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Writes JSON for `dvc metrics show`: encoder → kind of target (photo, caption) → `summarize`.

    similarities, references: the CSVs of `run_similarity` and `run_references`. Raises FeatspaceError if a
    target has no reference of its encoder.
    """
    images = pd.concat([read_table(path, SIMILARITY) for path in similarities], ignore_index=True)
    scale = pd.concat([read_table(path, REFERENCES) for path in references], ignore_index=True)
    tree: dict[str, dict] = {}
    for (name, kind), best in images[images["image"] == "best"].groupby(["encoder", "kind"]):
        own = scale[scale["encoder"] == name]
        if lacking := sorted(set(best["id"]) - set(own["id"])):
            where = ", ".join(map(str, references))
            raise FeatspaceError(f"{where}: no reference of '{name}' for target '{lacking[0]}'; write it again")
        tree.setdefault(name, {})[kind] = summarize(best, own, resamples, seed)
    write_json(tree, out)

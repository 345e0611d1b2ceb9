"""CSV and JSON with stable bytes (6 significant digits), read with one-line errors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.files import atomic_file
from featspace.utils.names import check_name
from featspace.utils.texts import parse_json

DECODED = {"id": str, "sample": int}
SIMILARITY = {
    "encoder": str,
    "id": str,
    "sample": int,
    "kind": str,  # photo or caption
    "image": str,  # best (nearest to the target feature of all images seen) or last (of the last latent)
    "distance": float,
    "cosine": float,
    "judge_cosine": float,
    "top1_agrees": float,
    "judge_top1_agrees": float,
}
SPEED = {"encoder": str, "way": str, "batch": int, "ms": float, "faster": float, "prior": str, "device": str}
BENCH = {
    "encoder": str,
    "method": str,
    "evaluations": int,
    "weight": float,  # 0 of a method without
    "tuned_on": str,  # the encoder that weights were chosen on
    "id": str,
    "sample": int,
    "cosine": float,
    "distance": float,
    "ratio": float,  # the distance over that of the target's own JPEG copy
    "judge_cosine": float,
    "judge_top1": float,
    "judge_top5": float,
    "error": float,  # of the prior in denoising the image, over that of photographs
    "seconds": float,  # an image
    "device": str,
    "identity": str,  # of parameters, weights, photograph and code
}
LAYERS = {
    "encoder": str,
    "layer": str,
    "shape": str,  # of its map, such as 24×56×56
    "evaluations": int,  # guided ones of an image
    "measure": str,  # one of layers.MEASURES
    "value": float,
    "low": float,
    "high": float,
    "chance": float,
    "chance_low": float,
    "chance_high": float,
}
MIXTURES = {"id": str, "kind": str, "first": str, "second": str, "share": float, "place": float}
MIXED = {
    "encoder": str,
    "id": str,  # of the feature that was decoded
    "kind": str,  # between (two targets), mean (of a class's photographs) or prototype (a classifier's weights)
    "first": str,  # the one target, or the class
    "second": str,
    "share": float,  # of the way from the first to the second
    "cosine": float,  # of the image's feature to the one that was decoded
    "cosine_first": float,
    "cosine_second": float,
    "cosine_ends": float,  # of the two targets' features
    "judge_first": float,  # cosine of the judge's features of the image and of the first, if that is a photograph
    "judge_second": float,
    "judge_top1": float,  # 1 if the class is the judge's first
    "judge_top5": float,
}
BASE = "base"
"""The setting that the others of an ablation change."""
ABLATION = {
    "setting": str,
    "changed": str,  # of the base, in words
    "part": str,  # of the method that is changed: base (none), schedule or guidance
    "id": str,
    "sample": int,
    "evaluations": int,
    "distance": float,
    "ratio": float,  # the distance over that of the base
    "cosine": float,
    "judge_cosine": float,
}
TARGET, SAMPLES, CHANCE = "target", "samples", "chance"
"""What the attributes of an image are held against."""
ATTRIBUTES = ("color", "layout", "edges", "texture", "judge_cosine")
AGREEMENT = {
    "images": str,  # the folder of the decoded ones
    "id": str,
    "sample": int,
    "against": str,  # target: its photograph; samples: the target's others, their mean; chance: other photographs', too
    "color": float,  # these as in LAYERS
    "layout": float,
    "edges": float,
    "texture": float,
    "judge_cosine": float,
}
AGREED = {
    "images": str,
    "measure": str,
    "against": str,
    "value": float,  # median over images
    "low": float,
    "high": float,
    "photographs": int,
    "count": int,  # of images
}
TRACES = {
    "encoder": str,
    "evaluation": int,  # so many are done
    "ratio": float,  # the least distance so far over that of the nearest other photograph, median over images
    "low": float,
    "high": float,
    "targets": int,
    "images": int,
}
NEIGHBORS = {
    "encoder": str,
    "id": str,
    "rank": int,
    "kind": str,  # target, or reference, which is not shown
    "name": str,  # the target's id, or the reference's class
    "distance": float,
    "cosine": float,
}
CLAIMS = {
    "claim": str,
    "of": str,  # the encoder, or the ablation's
    "published": str,
    "measured": float,
    "low": float,  # of the 95 % interval, bootstrapped over targets
    "high": float,
    "idle": float,  # what it would be if there were nothing in the claim
    "unit": str,
    "targets": int,
    "images": int,
    "test": str,
    "p": float,
    "verdict": str,  # supported, contradicted, or undecided by these data
}
REFERENCES = {"encoder": str, "id": str, "reference": str, "distance": float, "cosine": float}


NAMES = ("id", "first", "second", "setting", "layer", "method", "file")
"""Columns whose values files or folders are named after."""


def read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    """Reads a CSV; `columns` maps each required column to str, int or float (only int cannot be empty).

    Raises FeatspaceError for a missing or empty file, a missing column, a value of the wrong type, and one that no file
    can be named after where files are.
    """
    try:  # only "" is missing: an id may well be called "null"
        table = pd.read_csv(path, dtype=dict(columns), keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise FeatspaceError(f"{path}: no such file; run the stage that writes it") from None
    except pd.errors.EmptyDataError:
        raise FeatspaceError(f"{path}: the file is empty; run the stage that writes it again") from None
    except (ValueError, OSError) as error:  # pandas' parser and Unicode errors are ValueErrors
        reason = str(error).strip().splitlines()[-1]
        raise FeatspaceError(f"{path}: not a table of {', '.join(columns)} ({reason}); write it again") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise FeatspaceError(f"{path}: no column {', '.join(missing)}, only {', '.join(table)}; write it again")
    if table.empty:
        raise FeatspaceError(f"{path}: the table has no rows; run the stage that writes it again")
    for column in set(NAMES).intersection(columns):
        for name in table[column].dropna().unique():
            try:
                check_name(name)
            except ValueError as error:
                shown = f"{column} {one_line(repr(name), 80)}, which no file can have as its name ({error})"
                raise FeatspaceError(f"{path}: has the {shown}; write it again") from None
    return table


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Writes a CSV, floats with 6 significant digits; complete or not at all."""
    with atomic_file(out) as path:
        table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def write_json(tree: Mapping, out: Path) -> None:
    """Writes nested dicts as JSON, keys sorted, floats with 6 significant digits; complete or not at all."""

    def rounded(value):
        if isinstance(value, Mapping):
            return {key: rounded(item) for key, item in value.items()}
        return float(f"{value:.6g}") if isinstance(value, float) else value

    text = json.dumps(rounded(tree), indent=2, sort_keys=True, allow_nan=False)
    with atomic_file(out) as path:
        path.write_text(text + "\n", encoding="utf-8")


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Writes a table without its index, complete or not at all. Its library opens only files whose path is UTF-8,
    hence the bytes."""
    with atomic_file(path) as partial:
        partial.write_bytes(table.to_parquet(index=False))


def read_parquet(path: Path) -> pd.DataFrame:
    """Raises FeatspaceError for a file that is missing or damaged, such as an empty one after a loss of power."""
    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors, OSErrors and KeyErrors
        raise FeatspaceError(f"{path}: not a whole table ({one_line(error)}); {REMOVE}") from error


def read_json(path: Path) -> Any:
    """Raises FeatspaceError for a file that is missing or damaged, such as an empty one after a loss of power."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FeatspaceError(f"{path}: not whole ({one_line(error)}); {REMOVE}") from error


REMOVE = "remove it, and run the same command again"


EVALUATED = {"id": str, "class": str, "map_cosine": float, "pooled_cosine": float}

SUMMARY = {"controlnet": str, "network": str, "layer": str, "images": int, "map_cosine": float, "pooled_cosine": float}

TOGETHER = {"id": str, "way": str, "evaluations": float, "distance": float, "map_cosine": float, "judge_cosine": float}

WAYS = ("guided", "featinv", "both")

STEERED = {"strength": float, "file": str, "moved": float}

"""CSV and JSON with stable bytes (6 significant digits), read with one-line errors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file

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
REFERENCES = {"encoder": str, "id": str, "reference": str, "distance": float, "cosine": float}


def read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    """Reads a CSV; `columns` maps each required column to str, int or float (only int cannot be empty).

    Raises FeatspaceError for a missing or empty file, a missing column or a value of the wrong type.
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
    """Writes a table without its index. Its library opens only files whose path is UTF-8, hence the bytes."""
    path.write_bytes(table.to_parquet(index=False))


def read_parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(path.read_bytes()))


EVALUATED = {"id": str, "class": str, "map_cosine": float, "pooled_cosine": float}

SUMMARY = {"controlnet": str, "network": str, "layer": str, "images": int, "map_cosine": float, "pooled_cosine": float}

TOGETHER = {"id": str, "way": str, "evaluations": float, "distance": float, "map_cosine": float, "judge_cosine": float}

WAYS = ("guided", "featinv", "both")

STEERED = {"strength": float, "file": str, "moved": float}

"""How near the nearest image is after so many evaluations: what a decoding's budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from featspace.metrics.bootstrap import bootstrap_interval
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.tables import REFERENCES, TRACES, read_table, write_table

POINTS = 32
"""How many budgets are listed, evenly on a scale of logarithms."""


def run_traces(
    decoded: Sequence[Path], references: Sequence[Path], out: Path, resamples: int = 2000, seed: int = 0
) -> None:
    """Writes a CSV with tables.TRACES' columns, of the photographs' images in each folder of `decoded`.

    references: tables of `run_references`, one each, in the same order. The distances are those of the decoding, of
    images on 256 levels. Raises FeatspaceError for files that are missing, damaged or do not match.
    """
    if len(decoded) != len(references):
        raise UsageError(f"{len(decoded)} folders, {len(references)} tables of references: give one of each an encoder")
    rows = []
    for folder, path in zip(decoded, references, strict=True):
        table = read_table(path, REFERENCES)
        photos = set(table.loc[table["reference"].str.startswith("jpeg"), "id"])
        scale = table[table["reference"] == "nearest_photo"].set_index("id")["distance"]
        trace = _read(Path(folder) / "trace.parquet")
        trace = trace[trace["id"].isin(photos)]
        if trace.empty:
            raise FeatspaceError(f"{folder}: no photograph's decoding in trace.parquet; decode again")
        least = trace.assign(distance=trace[["distance_before", "distance_after"]].min(axis=1))
        least = least.pivot(index="evaluation", columns=["id", "sample"], values="distance").cummin().ffill()
        ratios = least / scale.reindex(least.columns.get_level_values("id")).to_numpy()
        for budget in np.unique(np.geomspace(1, len(ratios), POINTS).round().astype(int)):
            now = ratios.iloc[budget - 1]
            groups = {id: own.to_numpy() for id, own in now.groupby(level="id", sort=False)}
            interval = bootstrap_interval(groups, np.median, resamples=resamples, seed=seed)
            rows.append((table["encoder"].iloc[0], budget, now.median(), *interval, len(groups), len(now)))
    write_table(pd.DataFrame(rows, columns=list(TRACES)), out)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=["id", "sample", "evaluation", "distance_before", "distance_after"])
    except FileNotFoundError:
        raise FeatspaceError(f"{path}: no such file; decode again") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise FeatspaceError(f"{path}: not a whole table ({str(error).splitlines()[0]}); decode again") from None

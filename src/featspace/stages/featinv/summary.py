"""The tables of the second decoder, and their summaries: nothing here needs a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featspace.utils.tables import SUMMARY, TOGETHER, read_table, write_table


def run_summary(folders: Sequence[Path], out: Path) -> None:
    """Writes a CSV of the summaries in folders of `evaluate.run_evaluate`, a row a ControlNet.

    Raises FeatspaceError for files that are missing or do not match.
    """
    write_table(pd.concat([read_table(folder / "summary.csv", SUMMARY) for folder in folders]), out)


def run_together_summary(folder: Path, out: Path) -> None:
    """Writes a CSV of a folder of `together.run_together`: means over targets, of distances the median, a row a way."""
    table = read_table(folder / "together.csv", TOGETHER)
    rows = []
    for way, own in table.groupby("way", sort=False):
        means = own.drop(columns=["way", "id"]).mean()
        rows.append({"way": way, "targets": len(own), **means, "distance": own["distance"].median()})
    write_table(pd.DataFrame(rows), out)

"""What each part of the method does to the images: those of an ablation, measured from the saved files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from featspace.stages.similarity import measure
from featspace.utils.tables import ABLATION, DECODED, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder

BASE = "base"
"""The setting that the others change."""


def run_ablation(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    settings: Sequence[str],
    only: Sequence[str],
    targets: Path,
    features_file: Path,
    decoded: Path,
    out: Path,
) -> None:
    """Writes a CSV with tables.ABLATION's columns: a row a setting, target and sample.

    decoded: what `run_ablate` wrote, a folder for BASE and for each of the settings, of the targets `only`. The
    measures are those of `similarity.measure`, of the nearest image. Raises FeatspaceError for files that are missing,
    damaged or do not match.
    """
    rows = []
    for setting in [BASE, *settings]:
        folder = Path(decoded) / setting
        spent = read_table(folder / "decoded.csv", {**DECODED, "evaluations": int})[["id", "sample", "evaluations"]]
        table = measure(name, encoder, judge, targets, features_file, folder, only).query("image == 'best'")
        rows.append(table.merge(spent, on=["id", "sample"], validate="one_to_one").assign(setting=setting))
    write_table(pd.concat(rows)[list(ABLATION)], out)

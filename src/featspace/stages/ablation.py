"""What each part of the method does to the images: those of an ablation, measured from the saved files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from featspace.stages.similarity import measure
from featspace.utils.tables import ABLATION, BASE, DECODED, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder

GUIDANCE = {"guidance_weight", "clip_std"}


def run_ablation(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    settings: Mapping[str, Mapping[str, object]],
    only: Sequence[str],
    targets: Path,
    features_file: Path,
    decoded: Path,
    out: Path,
) -> None:
    """Writes a CSV with tables.ABLATION's columns: a row a setting, target and sample.

    settings: what each changes. decoded: what `run_ablate` wrote, a folder for BASE and for each of the settings, of
    the targets `only`. The
    measures are those of `similarity.measure`, of the nearest image. Raises FeatspaceError for files that are missing,
    damaged or do not match.
    """
    parts: list[pd.DataFrame] = []
    for setting, changes in {BASE: {}, **settings}.items():
        folder = Path(decoded) / setting
        spent = read_table(folder / "decoded.csv", {**DECODED, "evaluations": int})[["id", "sample", "evaluations"]]
        table = measure(name, encoder, judge, targets, features_file, folder, only).query("image == 'best'")
        changed = ", ".join(f"{key} {'none' if value is None else value}" for key, value in changes.items())
        part = BASE if not changes else "guidance" if changes.keys() <= GUIDANCE else "schedule"
        table = table.merge(spent, on=["id", "sample"], validate="one_to_one")
        own = table.set_index(["id", "sample"])["distance"]
        ratio = own / (parts[0].set_index(["id", "sample"])["distance"] if parts else own)
        table = table.merge(ratio.rename("ratio").reset_index(), on=["id", "sample"])
        parts.append(table.assign(setting=setting, changed=changed, part=part))
    write_table(pd.concat(parts)[list(ABLATION)], out)

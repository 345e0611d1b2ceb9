"""What each part of the method does to the images: those of an ablation, measured from the saved files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from featspace.config.params import DecodeParams, Profile
from featspace.stages.similarity import measure
from featspace.utils.errors import UsageError
from featspace.utils.tables import ABLATION, BASE, DECODED, read_table, write_table

if TYPE_CHECKING:
    from featspace.encoders.encoder import Encoder

GUIDANCE = {"guidance_weight", "clip_std"}


@dataclass(frozen=True)
class Setting:
    """What one run of an ablation decodes with."""

    name: str
    decode: DecodeParams
    clip_std: float | None

    @property
    def values(self) -> dict[str, float | None]:
        """The schedule and the guidance."""
        own = self.decode
        schedule = {"steps": own.steps, "recurrences": own.recurrences, "emphasis_steps": own.emphasis_steps}
        schedule |= {"emphasis_recurrences": own.emphasis_recurrences} if own.emphasis_steps else {}
        return {**schedule, "guidance_weight": own.guidance_weight, "clip_std": self.clip_std}


def settings_of(profile: Profile) -> list[Setting]:
    """Of the profile's ablation: BASE, then each setting. Raises UsageError for none, and one that is out of range."""
    own, found = profile.own_ablation, []
    if BASE in own.settings:
        raise UsageError(f"ablation.settings.{BASE} has the name of what all settings start from: rename it")
    for name, changes in {BASE: {}, **own.settings}.items():
        values: dict[str, Any] = {**own.base, **changes}
        clip_std = values.pop("clip_std", profile.encoder(own.encoder).clip_std)
        where = "ablation.base" if name == BASE else f"ablation.settings.{name}"
        try:
            found.append(Setting(name, profile.decode.revised(**values), clip_std))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    return found


def run_ablation(
    name: str,
    encoder: Encoder,
    judge: Encoder,
    settings: Sequence[Setting],
    only: Sequence[str],
    targets: Path,
    features_file: Path,
    decoded: Path,
    out: Path,
) -> None:
    """Writes a CSV with tables.ABLATION's columns: a row a setting, target and sample.

    settings: BASE, then what is varied. decoded: what `run_ablate` wrote, a folder for each of them, of the targets
    `only`. The measures are those of `similarity.measure`, of the nearest image. Raises FeatspaceError for files that
    are missing, damaged or do not match.
    """
    parts: list[pd.DataFrame] = []
    base = settings[0].values
    for setting in settings:
        values = setting.values
        changed = {key: values[key] for key in values if setting is settings[0] or values[key] != base.get(key)}
        folder = Path(decoded) / setting.name
        spent = read_table(folder / "decoded.csv", {**DECODED, "evaluations": int})[["id", "sample", "evaluations"]]
        table = measure(name, encoder, judge, targets, features_file, folder, only).query("image == 'best'")
        part = BASE if setting is settings[0] else "guidance" if changed.keys() <= GUIDANCE else "schedule"
        words = ", ".join(f"{key} {'none' if value is None else f'{value:g}'}" for key, value in changed.items())
        table = table.merge(spent, on=["id", "sample"], validate="one_to_one")
        own = table.set_index(["id", "sample"])["distance"]
        ratio = own / (parts[0].set_index(["id", "sample"])["distance"] if parts else own)
        table = table.merge(ratio.rename("ratio").reset_index(), on=["id", "sample"])
        parts.append(table.assign(setting=setting.name, changed=words, part=part))
    write_table(pd.concat(parts)[list(ABLATION)], out)

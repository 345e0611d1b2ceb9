"""A decoding in parts: which images are decoded together, which of them a shard decodes, and how shards are joined."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from featspace.config.params import DecodeParams
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.files import atomic_dir, refuse_taken, sha256
from featspace.utils.locks import alone
from featspace.utils.tables import read_parquet, write_parquet
from featspace.utils.texts import parse_json

FILE, TABLE, TRACE = "shard.json", "decoded.csv", "trace.parquet"

Job = tuple[str, int]
"""A target's id and a sample's index."""


def stem(job: Job) -> str:
    """What the names of an image's files begin with."""
    return f"{job[0]}-{job[1]}"


class Shard(NamedTuple):
    """One of `of` parts of a decoding, numbered from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of a text such as 2/8. Raises UsageError for another."""
        numbers = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        shard = cls(*map(int, numbers.groups())) if numbers else None
        if shard is None or shard.number > shard.of:
            raise UsageError(f"shard is {text}: name one of so many, from 1/8 to 8/8 for eight")
        return shard


WHOLE = Shard(1, 1)


def batches_of(targets: Sequence[str], decode: DecodeParams, shard: Shard = WHOLE) -> dict[str, list[Job]]:
    """What is decoded together, by a name for it; in the order of the targets.

    Groups of `decode.group` consecutive targets are dealt out to the shards in turn. A batch is a group's images, or
    where those are more than `decode.batch`, so many of them. So neither shards nor an interruption change a batch.
    """
    groups = [targets[start : start + decode.group] for start in range(0, len(targets), decode.group)]
    batches = {}
    for number in range(shard.number - 1, len(groups), shard.of):
        jobs = [(name, sample) for name in groups[number] for sample in range(decode.samples)]
        for start in range(0, len(jobs), decode.batch):
            batches[f"{number}-{start}"] = jobs[start : start + decode.batch]
    return batches


def write_shard(folder: Path, shard: Shard, run: dict[str, Any]) -> None:
    """Notes which finished shard a folder is, of which run (JSON values), and the SHA-256 of its files."""
    noted = {"shard": shard.number, "of": shard.of, "run": run, "files": _sums(folder)}
    (folder / FILE).write_text(json.dumps(noted), encoding="utf-8")


def run_merge(folders: Iterable[Path], out: Path) -> pd.DataFrame:
    """Joins the folders of all shards of a run into the new folder `out`: the bytes that the whole run would write.

    Returns its table, as text. Raises UsageError if a shard is missing, named twice, or of another run, FeatspaceError
    if a folder is no shard's, or if its files are not those that were finished.
    """
    refuse_taken(out)
    read = [(folder, *_read(folder)) for folder in folders]
    shards, run = _complete([(folder, shard, own) for folder, shard, own, _ in read])
    for folder, _, _, files in read:
        if unlike := _unlike(folder, files):
            raise FeatspaceError(f"{folder}: not a whole shard ({unlike}); decode it again")
    targets = [name for name, _ in run["features"]]
    decode = DecodeParams.model_validate(run["decode"])
    tables, traces, images = [], [], []
    for folder, shard in shards.items():
        jobs = [job for batch in batches_of(targets, decode, shard).values() for job in batch]
        if not jobs:
            continue
        try:  # as text, so that every number stays as it is
            table = pd.read_csv(folder / TABLE, dtype=str, keep_default_na=False)
            traces.append(read_parquet(folder / TRACE))
        except (OSError, ValueError, FeatspaceError) as error:  # pandas raises ValueErrors
            raise FeatspaceError(f"{folder}: not a whole shard ({one_line(error)}); decode it again") from error
        if list(zip(table["id"], table["sample"].astype(int), strict=True)) != jobs:
            raise FeatspaceError(f"{folder}: not a whole shard ({TABLE} has other rows); decode it again")
        tables.append(table)
        images += sorted(folder.glob("*.png"))
    order = {name: place for place, name in enumerate(targets)}
    with alone(out), atomic_dir(out) as partial:
        for image in images:
            shutil.copyfile(image, partial / image.name)
        joined = _in_order(tables, order)
        joined.to_csv(partial / TABLE, index=False, lineterminator="\n")
        write_parquet(_in_order(traces, order), partial / TRACE)
    return joined


def _in_order(tables: list[pd.DataFrame], order: dict[str, int]) -> pd.DataFrame:
    """Rows of the targets in order; those of one target stay as they are."""
    return pd.concat(tables).sort_values("id", key=lambda ids: ids.map(order), kind="stable")


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of a shard's files by name; hidden ones are tools' or records."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {path.name: sha256(path) for path in files if path.name != FILE}


def _unlike(folder: Path, files: dict[str, str]) -> str:
    """The first file that is not as it was finished, and why; empty if there is none."""
    there = _sums(folder)
    for name in sorted(files.keys() | there.keys()):
        if files.get(name) != there.get(name):
            why = "additional" if name not in files else "missing" if name not in there else "altered"
            return f"{name} is {why}"
    return ""


def _read(folder: Path) -> tuple[Shard, dict[str, Any], dict[str, str]]:
    made = "name folders that `featspace decode --shard` wrote"
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; {made}")
    try:
        noted = parse_json((folder / FILE).read_text(encoding="utf-8"))
        return Shard(noted["shard"], noted["of"]), noted["run"], dict(noted["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatspaceError(f"{folder}: holds no whole {FILE}; {made}") from error


def _complete(shards: list[tuple[Path, Shard, dict[str, Any]]]) -> tuple[dict[Path, Shard], dict[str, Any]]:
    """The folders by their place, and the run that they are of."""
    first, (_, count), run = shards[0]
    found: dict[Shard, Path] = {}
    for folder, shard, own in shards:
        if own != run:
            differing = ", ".join(key for key in sorted(run.keys() | own.keys()) if run.get(key) != own.get(key))
            raise UsageError(f"{folder}: is of another run than {first} (it differs in {differing}); decode it anew")
        if shard.of != count:
            raise UsageError(f"{folder}: is one of {shard.of} shards, {first} one of {count}; name shards of one split")
        if shard in found:
            raise UsageError(f"{folder}: is shard {shard.number}/{count}, as is {found[shard]}; name each shard once")
        found[shard] = folder
    if lacking := [f"{index}/{count}" for index in range(1, count + 1) if Shard(index, count) not in found]:
        raise UsageError(f"of {count} shards not named: {', '.join(lacking)}; decode with --shard, or name what was")
    return {folder: shard for shard, folder in sorted(found.items())}, run

"""A blind naming test: numbered decoded images without a hint of their targets, and the score of a reader's names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

from featspace.utils.errors import FeatspaceError, UsageError, suggest
from featspace.utils.files import atomic_dir, atomic_file, refuse_taken
from featspace.utils.images import read_image, square
from featspace.utils.tables import DECODED, read_table, write_table

NONE = "none"
"""The answer for an image in which no target is seen."""
KEY = {"number": int, "folder": str, "id": str, "sample": int}
ANSWERS = {"number": int, "name": str, "clearly": str}
GAP = 16  # pixels between the images


def run_sheet(folders: Sequence[Path], out: Path, key: Path, side: int = 256, seed: int = 0) -> pd.DataFrame:
    """Writes the decoded images of `folders` onto one sheet, in an order shuffled by `seed`, and apart from it its key.

    folders: of `featspace decode`, with decoded.csv and <id>-<sample>.png. The new folder `out`, for the one who names,
    holds sheet.png, the images numbered from 1, each brought to `side` pixels (Lanczos); names.txt, the ids of all
    targets and `none`; and answers.csv to be filled in. key: a CSV of KEY, which must not be there yet. Returns it.

    Raises UsageError if the key would be in `out` or in the place of another, or a folder is named twice, and
    FeatspaceError for files that are missing or damaged.
    """
    out, key = Path(out), Path(key)
    refuse_taken(out)
    if key.exists():
        raise UsageError(f"{key}: exists, and may be the key of another sheet; remove it or name another file")
    if key.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{key}: the key would be beside the sheet that it solves; name a file outside of {out}")
    if twice := [folder for folder, count in Counter(map(Path.resolve, map(Path, folders))).items() if count > 1]:
        raise UsageError(f"{twice[0]}: is named twice; name each folder once")
    rows = [(str(folder), *row) for folder in folders for row in _decoded(Path(folder))]
    order = np.random.default_rng(seed).permutation(len(rows))
    table = pd.DataFrame([rows[index] for index in order], columns=list(KEY)[1:])
    table.insert(0, "number", range(1, len(table) + 1))
    names = _names(table)
    images = [read_image(Path(row.folder) / f"{row.id}-{row.sample}.png") for row in table.itertuples()]
    with atomic_dir(out) as partial, atomic_file(key) as partial_key:
        draw(images, side).save(partial / "sheet.png", format="PNG")
        (partial / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        write_table(table[["number"]].assign(name="", clearly=""), partial / "answers.csv")
        write_table(table, partial_key)
    return table


def _decoded(folder: Path) -> Iterator[tuple[str, int]]:
    """Id and sample of each image, sorted."""
    table = read_table(folder / "decoded.csv", DECODED)
    if NONE in set(table["id"]):
        raise UsageError(f"{folder}/decoded.csv: a target has the id {NONE!r}, which is an answer; rename it")
    yield from sorted(table[["id", "sample"]].itertuples(index=False, name=None))


def _names(key: pd.DataFrame) -> list[str]:
    return [*sorted(set(key["id"])), NONE]


def draw(images: Sequence[Image.Image], side: int) -> Image.Image:
    """The images (square, or cut to the largest centered square) in rows, as many as columns, numbered from 1."""
    strip = max(20, side // 8)
    font = ImageFont.load_default(0.8 * strip)
    columns = math.ceil(math.sqrt(len(images)))
    sheet = Image.new("RGB", (_place(columns, side), _place(-(-len(images) // columns), side + strip)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = _place(index % columns, side), _place(index // columns, side + strip)
        pen.text((left, top + strip / 2), str(index + 1), fill="black", font=font, anchor="lm")
        cut = square(image, min(image.size))
        sheet.paste(cut.resize((side, side), Image.Resampling.LANCZOS), (left, top + strip))
    return sheet


def _place(index: int, size: int) -> int:
    return GAP + index * (size + GAP)


def run_score(answers: Path, key: Path, out: Path) -> pd.DataFrame:
    """Scores names against the key of their sheet; writes a CSV and returns it: a row for each folder, and for all.

    answers: a CSV of ANSWERS with a name for every number and, but for the name `none`, whether it is clearly seen (yes
    or no). Columns: images; right and clearly_right, the images that have their target's name, and those of them that
    were called clear, each with its share's 95 % interval (Wilson 1927; `_low`, `_high`); clear, the images called
    clear; chance, the share that is right by naming targets blindly. Raises FeatspaceError for an answer that is
    missing, unknown, or given twice.
    """
    truth = read_table(key, KEY).set_index("number")
    given = _read_answers(Path(answers), truth)
    right = given["name"] == truth["id"]
    scored = truth.assign(right=right, clear=given["clear"], clearly_right=right & given["clear"])
    parts = [*scored.groupby("folder", sort=True), ("all", scored)]
    chance = 1 / truth["id"].nunique()
    table = pd.DataFrame([{"folder": folder, **_counts(part), "chance": chance} for folder, part in parts])
    write_table(table, out)
    return table


def _counts(part: pd.DataFrame) -> dict[str, int | float]:
    counts: dict[str, int | float] = {"images": len(part), "clear": int(part["clear"].sum())}
    for name in ("right", "clearly_right"):
        count = int(part[name].sum())
        interval = binomtest(count, len(part)).proportion_ci(method="wilson")
        counts |= {name: count, f"{name}_share": count / len(part)}
        counts |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return counts


def _read_answers(path: Path, truth: pd.DataFrame) -> pd.DataFrame:
    """The answers by number, in the order of the key, with a column `clear` (bool)."""
    table = read_table(path, ANSWERS)
    table["name"] = table["name"].fillna("").str.strip()
    table["clearly"] = table["clearly"].fillna("").str.strip().str.lower()
    names = _names(truth)
    for row in table.itertuples():
        if row.number not in truth.index:
            raise FeatspaceError(f"{path}: there is no image {row.number} on the sheet; mend the number")
        if row.name not in names:
            wrong = f"image {row.number} is named {row.name!r}" if row.name else f"image {row.number} has no name"
            raise FeatspaceError(f"{path}: {wrong}{suggest(row.name, names)}; name one of {', '.join(names)}")
        if row.clearly not in ("yes", "no") and (row.clearly or row.name != NONE):
            raise FeatspaceError(f"{path}: image {row.number}: clearly is {row.clearly!r}; say yes or no")
    if repeated := table["number"][table["number"].duplicated()].tolist():
        raise FeatspaceError(f"{path}: image {repeated[0]} is named twice; keep one answer")
    if missing := sorted(set(truth.index) - set(table["number"])):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FeatspaceError(f"{path}: no answer for image {missing[0]}{more}; name each, if only {NONE}")
    table = table.set_index("number").loc[truth.index]
    return table.assign(clear=table["clearly"] == "yes")

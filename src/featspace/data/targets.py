"""Targets: the photographs and captions whose features are decoded."""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from featspace.data.paper_photos import fetch_photo
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.names import check_name, is_reserved

TABLE = "targets.csv"
COLUMNS = ["id", "kind", "text", "source"]


@dataclass(frozen=True)
class Target:
    id: str
    kind: str  # photo or caption
    text: str  # a caption's words
    source: str  # where a photo was taken from


def write_list(folder: Path, targets: Iterable[Target]) -> None:
    """Writes the list of targets into their folder, as `read_targets` reads it."""
    with open(folder / TABLE, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([target.id, target.kind, target.text, target.source] for target in targets)


def locate_image(source: str, root: Path = Path()) -> Path:
    """The file of `skimage:<name>`, an image inside scikit-image's wheel (file name without suffix), of
    `paper:<path>`, a photograph of the paper (see paper_photos), or of a path relative to `root`.

    Raises UsageError, listing the images, if `<name>` or `<path>` is not one of them, and FeatspaceError if a
    photograph of the paper is not to be had; nothing else is downloaded.
    """
    if source.startswith("paper:"):
        return fetch_photo(source.removeprefix("paper:"))
    if not source.startswith("skimage:"):
        return root / source
    name = source.removeprefix("skimage:")
    folder = Path(str(files("skimage") / "data"))
    bundled = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}
    if name not in bundled:
        raise UsageError(f"{source}: not among the images in scikit-image's package: {', '.join(bundled)}")
    return bundled[name]


def slug(text: str) -> str:
    """A text as part of a target's id: lowercase letters of any script, digits and underscores, 120 bytes at most.

    A longer one is cut, and ends in the start of its SHA-256, as images are named after targets.
    """
    name = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", text).lower()).strip("_") or "target"
    name = f"{name}_" if is_reserved(name) else name
    if len(name.encode()) <= 120:
        return name
    return f"{name.encode()[:110].decode(errors='ignore').rstrip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def read_targets(folder: Path) -> list[Target]:
    """The targets in a folder that `run_targets` wrote, in the order of the parameters.

    Raises FeatspaceError if the table or a photo's PNG is missing, if the table is not one of targets, or has an id
    twice or one that no image can have.
    """
    table = Path(folder) / TABLE
    try:
        with open(table, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames
    except FileNotFoundError as error:
        raise FeatspaceError(f"{table}: no such table; write it with `featspace targets`") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FeatspaceError(f"{table}: cannot be read ({error}); run `featspace targets` anew") from error
    whole = all(None not in row.values() and row.get("kind") in ("photo", "caption") for row in rows)
    if columns != COLUMNS or not rows or not whole:
        raise FeatspaceError(f"{table}: not a table of targets; write it anew with `featspace targets`")
    targets = [Target(**{column: row[column] for column in COLUMNS}) for row in rows]
    seen: set[str] = set()
    for target in targets:
        try:
            check_name(target.id)
        except ValueError as error:
            named = f"the id {one_line(repr(target.id), 80)}, which no image can have ({error})"
            raise FeatspaceError(f"{table}: a target has {named}; rename it") from error
        if target.id in seen:
            raise FeatspaceError(f"{table}: two targets have the id {target.id}; rename one")
        seen.add(target.id)
        if target.kind == "photo" and not (Path(folder) / f"{target.id}.png").is_file():
            photo = Path(folder) / f"{target.id}.png"
            raise FeatspaceError(f"{photo}: the photo is missing; run `featspace targets` anew")
    return targets

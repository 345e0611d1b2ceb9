"""Targets: the photographs and captions whose features are decoded."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from featspace.errors import FeatspaceError, UsageError
from featspace.files import atomic_dir
from featspace.images import read_image, save_png, square, to_tensor
from featspace.params import Profile

TABLE = "targets.csv"
COLUMNS = ["id", "kind", "text", "source"]


@dataclass(frozen=True)
class Target:
    id: str
    kind: str  # photo or caption
    text: str  # a caption's words
    source: str  # where a photo was taken from


def run_targets(profile: Profile, root: Path, out: Path) -> None:
    """Writes each photo of a profile as `<id>.png`, profile.resolution pixels square, and targets.csv.

    Paths of photos are relative to `root`. Raises FeatspaceError if a photo cannot be read, UsageError if its
    crop leaves it or scikit-image does not bundle it.
    """
    rows = [Target(name, "photo", "", photo.image) for name, photo in profile.photos.items()]
    rows += [Target(name, "caption", text, "") for name, text in profile.captions.items()]
    with atomic_dir(out) as partial:
        for name, photo in profile.photos.items():
            image = read_image(locate_image(photo.image, root))
            try:
                image = square(image, profile.resolution, photo.crop)
            except UsageError as error:
                raise UsageError(f"photos.{name} ({photo.image}): {error}") from error
            save_png(partial / f"{name}.png", to_tensor(image))
        with open(partial / TABLE, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([row.id, row.kind, row.text, row.source] for row in rows)


def locate_image(source: str, root: Path = Path()) -> Path:
    """The file of `skimage:<name>`, an image inside scikit-image's wheel (file name without suffix), or of a
    path relative to `root`.

    Nothing is downloaded: raises UsageError, listing the bundled images, if `<name>` is not one of them.
    """
    if not source.startswith("skimage:"):
        return root / source
    name = source.removeprefix("skimage:")
    folder = Path(str(files("skimage") / "data"))
    bundled = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}
    if name not in bundled:
        raise UsageError(f"{source}: not among the images in scikit-image's package: {', '.join(bundled)}")
    return bundled[name]


def read_targets(folder: Path) -> list[Target]:
    """The targets in a folder that `run_targets` wrote, in the order of the parameters.

    Raises FeatspaceError if the table or a photo's PNG is missing, or the table is not one of targets.
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
    for target in targets:
        if target.kind == "photo" and not (Path(folder) / f"{target.id}.png").is_file():
            photo = Path(folder) / f"{target.id}.png"
            raise FeatspaceError(f"{photo}: the photo is missing; run `featspace targets` anew")
    return targets

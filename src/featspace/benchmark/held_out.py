"""Held-out photographs as a folder of targets."""

from __future__ import annotations

from pathlib import Path

from featspace.data.photographs import open_photographs
from featspace.data.targets import Target, slug, write_list
from featspace.utils.errors import UsageError
from featspace.utils.files import atomic_dir
from featspace.utils.images import save_png, square, to_tensor


def run_held_out(photographs: Path, count: int, resolution: int, out: Path) -> None:
    """Writes the first photograph of the split `val` of each of `count` classes, spread over all, as `targets` does.

    Raises UsageError if there are not so many classes, FeatspaceError if there are no such photographs.
    """
    known = open_photographs(photographs, "val")
    if not 1 <= count <= len(known.classes):
        raise UsageError(f"{count} photographs of different classes wanted: {photographs} has {len(known.classes)}")
    with atomic_dir(out) as partial:
        rows = []
        for index in range(count):
            label = index * len(known.classes) // count
            image = square(known[known.labels.index(label)], resolution)
            name = slug(known.classes[label])
            save_png(partial / f"{name}.png", to_tensor(image))
            rows.append(Target(name, "photo", "", f"{photographs.name}/val"))
        write_list(partial, rows)

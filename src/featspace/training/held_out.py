"""Held-out photographs as a folder of targets: python -m featspace.training.held_out <photographs> <count> <targets>"""

from __future__ import annotations

import sys
from pathlib import Path

from featspace.errors import FeatspaceError
from featspace.files import atomic_dir
from featspace.images import save_png
from featspace.targets import Target, slug, write_list
from featspace.training import data


def run(photographs: Path, count: int, out: Path) -> None:
    """Writes the first photograph of the val split of each of `count` classes, spread over all, as `targets` does.

    Raises FeatspaceError if there are not so many classes.
    """
    images, labels = data.load_split(photographs, "val")
    names = data.class_names(photographs)
    if not 1 <= count <= len(names):
        raise FeatspaceError(f"{count} classes wanted: {photographs} has {len(names)}")
    with atomic_dir(out) as partial:
        rows = []
        for index in range(count):
            label = index * len(names) // count
            name = slug(names[label])
            save_png(partial / f"{name}.png", data.to_unit(images[(labels == label).nonzero()[0, 0]]))
            rows.append(Target(name, "photo", "", f"{photographs.name}/val"))
        write_list(partial, rows)


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")

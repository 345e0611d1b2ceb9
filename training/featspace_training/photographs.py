"""Writes the training photographs from the public Tiny ImageNet: `python -m featspace_training.photographs`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm import tqdm

from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import atomic_dir

HELD_OUT = 25
"""Validation images a class."""


def run(archive: Path, classes: Path, out: Path) -> None:
    """Writes train.parquet, val.parquet and classes.json into `out` from an unpacked tiny-imagenet-200 folder.

    Raises FeatspaceError if the folder lacks a class, or has no validation annotations.
    """
    rows = json.loads(classes.read_text())
    annotations = archive / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise FeatspaceError(f"{annotations}: no such file; name the unpacked folder tiny-imagenet-200")
    table = [line.split("\t")[:2] for line in annotations.read_text().splitlines()]
    with atomic_dir(out) as partial:
        splits: dict[str, list] = {"train": [], "val": []}
        for row in tqdm(rows, desc="photographs", unit="class"):
            images = archive / "train" / row["wnid"] / "images"
            if not images.is_dir():
                raise FeatspaceError(f"{images}: no such folder; unpack the archive again")
            held_out = [archive / "val" / "images" / name for name, wnid in table if wnid == row["wnid"]][:HELD_OUT]
            splits["train"] += [_encoded(path, row["label"]) for path in sorted(images.iterdir())]
            splits["val"] += [_encoded(path, row["label"]) for path in held_out]
        for split, found in splits.items():
            pd.DataFrame(found).to_parquet(partial / f"{split}.parquet", index=False)
        (partial / "classes.json").write_text(classes.read_text())


def _encoded(path: Path, label: int) -> dict:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=75)
    return {"image": {"bytes": buffer.getvalue(), "path": path.name}, "label": label}


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise UsageError("two arguments are needed: the folder tiny-imagenet-200, and the folder to write")
        run(Path(sys.argv[1]), Path("classes.json"), Path(sys.argv[2]))
    except FeatspaceError as error:
        sys.exit(f"featspace: error: {error}")

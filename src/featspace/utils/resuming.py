"""A long decoding that can be cut off: what is finished stays beside the output, and the next run goes on from it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from featspace.utils.errors import UsageError, escaped
from featspace.utils.files import atomic_dir, atomic_file, is_full, no_space
from featspace.utils.locks import alone
from featspace.utils.tables import read_parquet, write_parquet

RECORDS, SETTINGS = "records", "settings.json"


class Unfinished:
    """The folder of a decoding under way: images, and in a folder of its own a record of each that is finished."""

    def __init__(self, folder: Path):
        self.folder, self.records = folder, folder / RECORDS

    def is_finished(self, name: str) -> bool:
        return (self.records / f"{name}.json").is_file()

    def finish(self, name: str, row: dict[str, Any], trace: pd.DataFrame) -> None:
        """Records that the images `<name>*.png` are in the folder: their table row and their trace."""
        write_parquet(trace, self.records / f"{name}.parquet")
        with atomic_file(self.records / f"{name}.json") as partial:  # last, as it is what marks them finished
            partial.write_text(json.dumps(row), encoding="utf-8")

    def collect(self, names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows and traces of all `names`, in their order."""
        rows = [json.loads((self.records / f"{name}.json").read_text(encoding="utf-8")) for name in names]
        traces = [read_parquet(self.records / f"{name}.parquet") for name in names]
        return pd.DataFrame(rows), pd.concat(traces)

    @property
    def count(self) -> int:
        return sum(path.name != SETTINGS for path in self.records.glob("*.json"))


def unfinished_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


@contextmanager
def resumable_dir(out: Path, settings: dict[str, Any]) -> Iterator[Unfinished]:
    """Yields a folder that becomes `out` on success, without its records; it stays where a run is cut off.

    A folder `<out>.unfinished` left by a run of the same `settings` (JSON values) is taken up again; one without a
    finished image is removed. Where a run is cut off, a line on standard error says what is kept. Raises UsageError if
    the folder is of other settings or another process is making `out`, FeatspaceError if the disk is full, and whatever
    `atomic_dir` raises for `out`.
    """
    out = Path(out)
    with atomic_dir(out):
        pass  # raises, before hours are spent, if `out` cannot be written
    out.rmdir()
    with alone(out):
        yield from _resumed(out, settings)


def _resumed(out: Path, settings: dict[str, Any]) -> Iterator[Unfinished]:
    folder = unfinished_folder(out)
    work = Unfinished(folder)
    left = work.records / SETTINGS
    if left.is_file() and not work.count:  # killed too early to remove it
        shutil.rmtree(folder)
    if folder.is_dir():
        if not left.is_file() or json.loads(left.read_text(encoding="utf-8")) != settings:
            raise UsageError(
                f"{folder}: holds {work.count} finished images of a run with other settings; "
                f"repeat that run to go on with it, or remove the folder"
            )
    else:
        with atomic_dir(folder) as partial:
            (partial / RECORDS).mkdir()
            (partial / RECORDS / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    try:
        yield work
        folder.replace(out)
        shutil.rmtree(out / RECORDS)  # only now, so that no failure loses what is finished
    except BaseException as error:
        if folder.is_dir() and not work.count:
            shutil.rmtree(folder)
        elif folder.is_dir():
            kept = f"{escaped(folder)}: {work.count} finished images are kept; the same command goes on from them"
            print(kept, file=sys.stderr)
        if is_full(error):
            raise no_space(folder) from error
        raise

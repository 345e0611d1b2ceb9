"""A long decoding that can be cut off: what is finished stays beside the output, and the next run goes on from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from featspace.utils.errors import FeatspaceError, UsageError, escaped
from featspace.utils.files import atomic_dir, atomic_file, discard, is_full, no_space, refuse_taken
from featspace.utils.locks import alone
from featspace.utils.tables import read_json, read_parquet, write_parquet

RECORDS, SETTINGS = ".records", "settings"


class Unfinished:
    """The folder of a decoding under way: images, and in a folder of its own a record of each batch that is finished.

    A batch is finished as a whole or decoded again as a whole, so that its images are the same wherever a run is cut.
    """

    def __init__(self, folder: Path):
        self.folder, self.records = folder, folder / RECORDS

    def is_finished(self, batch: str) -> bool:
        """Whether a batch's record is there and whole; of one that a loss of power damaged a line says so."""
        record, trace = (self.records / f"{batch}.{suffix}" for suffix in ("json", "parquet"))
        if not record.is_file():
            return False
        try:
            read_json(record)
            if trace.is_file():
                read_parquet(trace)
        except FeatspaceError as error:
            say_again(error)
            return False
        return True

    def finish(self, batch: str, rows: Sequence[dict[str, Any]], trace: pd.DataFrame | None = None) -> None:
        """Records that a batch's images are in the folder: a table row of each, and their trace."""
        if trace is not None:
            write_parquet(trace, self.records / f"{batch}.parquet")
        with atomic_file(self.records / f"{batch}.json") as partial:  # last, as it is what marks them finished
            partial.write_text(json.dumps(list(rows)), encoding="utf-8")

    def collect(self, batches: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows and traces of all `batches`, in their order."""
        rows = [row for batch in batches for row in read_json(self.records / f"{batch}.json")]
        return pd.DataFrame(rows), pd.concat([read_parquet(self.records / f"{batch}.parquet") for batch in batches])

    @property
    def count(self) -> int:
        """Of finished images, in unfinished folders inside of this one too."""
        count = 0
        for record in self.folder.rglob(f"{RECORDS}/[!.]*.json"):
            with suppress(FeatspaceError):  # what is damaged does not count
                count += len(read_json(record))
        return count


def say_again(error: FeatspaceError) -> None:
    """Says on standard error which file of a batch is damaged, which is decoded again for that."""
    print(f"{str(error).partition(';')[0]}: decoding its images again", file=sys.stderr)


def unfinished_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


def settle(out: Path) -> None:
    """Has a run that was killed in its very last steps count as unfinished, and removes what it left beside `out`.

    Raises UsageError if another process is making `out`.
    """
    if out.name and out.is_dir() and any(out.iterdir()):
        with alone(out):
            if (out / RECORDS / SETTINGS).is_file():
                out.replace(unfinished_folder(out))


@contextmanager
def resumable_dir(out: Path, settings: dict[str, Any]) -> Iterator[Unfinished]:
    """Yields a folder that becomes `out` on success, without its records; it stays where a run is cut off.

    A folder `<out>.unfinished` left by a run of the same `settings` (JSON values) is taken up again; one of others
    without a finished image is removed. Where a run is cut off, a line on standard error says what is kept. Raises
    UsageError if the folder is of other settings, `out` is taken or another process is making it, FeatspaceError if the
    disk is full or the place cannot be written.
    """
    out = Path(out)
    settle(out)
    refuse_taken(out)
    with alone(out):
        yield from _resumed(out, settings)


def _resumed(out: Path, settings: dict[str, Any]) -> Iterator[Unfinished]:
    folder = unfinished_folder(out)
    work = Unfinished(folder)
    left = work.records / SETTINGS
    if left.is_file() and read_json(left) != settings and not work.count:
        discard(folder, out)  # of a run that was killed too early to remove it
    if folder.is_dir():
        if not left.is_file() or read_json(left) != settings:
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
        discard(out / RECORDS, out)  # only now, so that no failure loses what is finished
    except BaseException as error:
        if folder.is_dir() and not work.count:
            discard(folder, out)
        elif folder.is_dir():
            kept = f"{escaped(folder)}: {work.count} finished images are kept; the same command goes on from them"
            print(kept, file=sys.stderr)
        if is_full(error):
            raise no_space(folder) from error
        raise

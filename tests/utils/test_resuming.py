"""A folder that is made in steps is the same wherever its making was killed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from killing import started, was_killed

from featspace.utils.errors import UsageError
from featspace.utils.resuming import resumable_dir, settle


def make(out: Path, settings: dict | None = None) -> None:
    """Two batches of an image, and a table."""
    with resumable_dir(out, settings or {"seed": 0}) as work:
        for batch in ("a", "b"):
            if not work.is_finished(batch):
                (work.folder / f"{batch}.png").write_text(batch)
                work.finish(batch, [{"id": batch}], pd.DataFrame({"id": [batch]}))
        rows, trace = work.collect(["a", "b"])
        (work.folder / "table").write_text(f"{list(rows['id'])}{list(trace['id'])}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_may_be_killed_before_any_operation_on_files(tmp_path: Path) -> None:
    """And again while it is repeated, before one of another number."""
    make(tmp_path / "whole" / "out")
    whole, taken, operation = contents(tmp_path / "whole"), 0, 1
    while was_killed(started(make, (out := tmp_path / str(operation) / "out"), operation=operation)):
        was_killed(started(settle_and_make, out, operation=1 + 7 * operation % 31))
        taken += (out / ".records").is_dir()
        assert not was_killed(started(settle_and_make, out))
        assert contents(out.parent) == whole, operation
        operation += 1
    assert operation > 20 and taken > 0


def settle_and_make(out: Path) -> None:
    """As the command does."""
    settle(out)
    if not out.is_dir():
        make(out)


def test_a_killed_run_stands_in_the_way_of_no_other_unless_it_has_images(tmp_path: Path) -> None:
    operation = 1
    while was_killed(started(make, (out := tmp_path / str(operation) / "out"), operation=operation)):
        settle(out)
        if list(out.parent.glob("out.unfinished/.records/[!.]*.json")):
            with pytest.raises(UsageError, match="finished images of a run with other settings"):
                make(out, {"seed": 1})
        elif not out.is_dir():
            make(out, {"seed": 1})
            assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
        operation += 1
    assert operation > 20

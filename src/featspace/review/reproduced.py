"""A rebuild against what was committed: what `featspace reproduced` does."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from featspace.review.spread import outside, quantile, read_metrics, read_spread
from featspace.review.stages import build_command
from featspace.utils.errors import FeatspaceError

SOURCES = ("dvc.yaml", "params.yaml", "requirements.lock", "src", "data")
"""What outputs are built from."""
NAMED = 3


def run_reproduced(root: Path, profile: str, report: Callable[[str], None] = print) -> None:
    """Compares figures/<profile> with what is committed at HEAD, and reports what is the same.

    Where bytes differ, metrics.json must lie within the spread over seeds (`spread.outside`), which spread.json there
    says. Where nothing is committed, or where the sources are not as committed, it reports that and compares nothing.
    Raises FeatspaceError if nothing was built here, outputs are missing, metrics lie outside of the spread, or none is
    known.
    """
    folder = Path("figures", profile)
    with TemporaryDirectory(prefix="featspace-") as name:
        if not _extract(root, folder, Path(name)):
            report(f"nothing to compare with: no {folder} is committed here")
            return
        data = Path("data", profile)  # git knows its figures, but of what is built there only .gitignore
        if not any(path.is_file() and not path.name.startswith(".") for path in (root / data).rglob("*")):
            todo = f"build it with `{build_command(profile)}`"
            raise FeatspaceError(f"not reproduced: {data}: not there, so nothing was built here; {todo}")
        if changed := _git(root, "diff", "--name-only", "HEAD", "--", *SOURCES).decode().splitlines():
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            report(f"not compared with what is committed: {changed[0]}{more} changed since")
            return
        _compare(Path(name) / folder, root / folder, report)


def _compare(committed: Path, rebuilt: Path, report: Callable[[str], None]) -> None:
    names = sorted(path.relative_to(committed) for path in committed.rglob("*") if path.is_file())
    if missing := [name for name in names if not (rebuilt / name).is_file()]:
        raise FeatspaceError(f"not reproduced: {rebuilt / missing[0]} is missing, of {len(missing)} such files")
    differing = [name for name in names if (committed / name).read_bytes() != (rebuilt / name).read_bytes()]
    report(f"{len(names) - len(differing)} of {len(names)} files of {rebuilt} have the bytes that are committed")
    if not differing:
        report("reproduced: byte for byte")
        return
    before, after = (read_metrics(folder / "metrics.json") for folder in (committed, rebuilt))
    moved = sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())
    report(f"{len(before) - moved} of {len(before)} numbers of metrics.json are the committed ones")
    files = f"files that differ in bytes: {len(differing)}"
    if not moved:
        report(f"reproduced: all metrics are the same; {files}, such as {rebuilt / differing[0]}")
        return
    spread = read_spread(rebuilt / "spread.json")
    over = f"the spread over {len(spread.seeds)} seeds (±{2**0.5 * quantile(spread):.1f} standard deviations)"
    if found := outside(before, after, spread):
        worst = "; ".join(map(str, found[:NAMED])) + ("; …" if len(found) > NAMED else "")
        metrics = "1 metric lies" if len(found) == 1 else f"{len(found)} metrics lie"
        raise FeatspaceError(f"not reproduced: {metrics} outside of {over}: {worst}")
    report(f"reproduced: within {over}; {files}, as on another processor")


def _extract(root: Path, folder: Path, place: Path) -> bool:
    """Writes what is committed of a folder into `place`; False where there is no git, commit, or such folder."""
    try:
        archive = _git(root, "archive", "HEAD", str(folder))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(place, filter="data")
    return True


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=True).stdout

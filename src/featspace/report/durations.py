"""How long the commands of each stage took here: noted as they end, and read for the report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from featspace.utils.errors import FeatspaceError
from featspace.utils.files import atomic_file
from featspace.utils.texts import parse_json

FOLDER = Path(".dvc/tmp/featspace-seconds")
"""In the project; git and DVC leave it alone. A file a stage: its commands, the seconds of each and when it ended."""


class Duration(NamedTuple):
    stage: str
    seconds: float | None  # of all its commands; None if not all of them were run here
    ended: str  # the last of them, ISO 8601 in UTC; empty if not


def note_seconds(arguments: Sequence[str], seconds: float) -> None:
    """Notes how long a command took, where DVC runs it as a stage's, which its environment says.

    What cannot be written is let go: the command itself succeeded.
    """
    root, stage = os.environ.get("DVC_ROOT"), os.environ.get("DVC_STAGE")
    if not root or not stage or not Path(root, ".dvc").is_dir():
        return
    path = _file(Path(root), stage)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    noted = {**_read(path), shlex.join(arguments): {"seconds": round(seconds, 2), "ended": ended}}
    with suppress(OSError, FeatspaceError), atomic_file(path) as partial:
        partial.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def read_durations(root: Path, folders: Iterable[Path]) -> list[Duration]:
    """The stages in `root`/dvc.lock that made what is in `folders`, in the order in which they last ended.

    Those that were not run here are last. Empty without dvc.lock. Raises UsageError if that is not YAML.
    """
    from featspace.config.reading import read_yaml  # not before each command

    if not (root / "dvc.lock").is_file():
        return []
    within = [folder.resolve() for folder in folders]
    found = []
    for stage, entry in (read_yaml(root / "dvc.lock").get("stages") or {}).items():
        outs = [(root / out["path"]).resolve() for out in entry.get("outs", [])]
        if any(out.exists() and out.is_relative_to(folder) for out in outs for folder in within):
            commands = [entry["cmd"]] if isinstance(entry["cmd"], str) else entry["cmd"]
            found.append(_duration(root, stage, commands))
    return sorted(found, key=lambda duration: (not duration.ended, duration.ended, duration.stage))


def _duration(root: Path, stage: str, commands: Sequence[str]) -> Duration:
    noted = _read(_file(root, stage))
    own = [noted.get(shlex.join(shlex.split(command)[1:])) for command in commands]
    done = [part for part in own if part]
    if len(done) < len(own):
        return Duration(stage, None, "")
    return Duration(stage, sum(part["seconds"] for part in done), max(part["ended"] for part in done))


def _file(root: Path, stage: str) -> Path:
    return root / FOLDER / f"{quote(stage, safe='@')}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        noted = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut short
        return {}
    return noted if isinstance(noted, dict) else {}

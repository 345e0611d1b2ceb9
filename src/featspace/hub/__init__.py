"""From the name of a network to a folder of verified weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from featspace.hub.manifest import PICKLES, check_folder
from featspace.hub.sources import ENCODERS
from featspace.utils.errors import FeatspaceError, UsageError, suggest


def resolve(name: str, root: Path = Path(), families: Mapping[str, str] = ENCODERS) -> Path:
    """The verified folder of a network's files; what is published is downloaded first, where it is missing.

    `name` is a folder, relative to `root`, or `<family>:<name>` of one of the `families`, pinned by the lock in `root`
    (`published.obtain`). A file is hashed once a process. Raises UsageError for an unknown network and a folder that
    is missing, FeatspaceError for files that are missing, altered or pickles, or that are not to be had.
    """
    folder, choices = root / name, f"name a folder, or {', '.join(families.values())}"
    if is_published(name, root, families):
        from featspace.hub.published import obtain  # imports the hub's client

        return obtain(name, root)
    family, colon, _ = name.partition(":")
    if colon and not folder.exists():
        raise UsageError(f"{name}: no such kind of network{suggest(family, families)}; {choices}")
    if folder.suffix.lower() in PICKLES and folder.is_file():
        raise FeatspaceError(f"{folder}: a pickle, which can run code when loaded; {choices}")
    try:
        check_folder(folder)
    except UsageError as error:  # there is none
        raise UsageError(f"{error}, or name {', '.join(families.values())}") from error
    return folder


def is_published(name: str, root: Path = Path(), families: Mapping[str, str] = ENCODERS) -> bool:
    """Whether a name is of one of the families, not of a folder."""
    family, colon, _ = name.partition(":")
    return bool(colon) and family in families and not (root / name).is_dir()

"""Names that files are named after: of targets, encoders and profiles."""

from __future__ import annotations

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
"""Names of devices on Windows, whatever suffix they have."""
FORBIDDEN = frozenset('/\\<>:"|?*\u2044\u2215\u29f8\uff0f\u2216\u29f5\u29f9\ufe68\uff3c')
"""Characters that separate folders, or look as if they did, or that file names have not on every system."""
LONGEST = 200
"""Bytes of a name, which leaves room in a file's for what is appended."""


def check_name(name: str) -> str:
    """The name as it is. Raises ValueError, which says why, if no file can be named after it on every system."""
    if not name:
        raise ValueError("it is empty")
    if not name.isprintable():
        raise ValueError("it has characters that cannot be printed")
    if found := sorted(FORBIDDEN.intersection(name)):
        raise ValueError(f"it has a {found[0]} in it")
    if name[0] in ". " or name[-1] in ". ":
        raise ValueError("it begins or ends with a dot or a space")
    if is_reserved(name):
        raise ValueError("it is a device's on Windows")
    if len(name.encode()) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} bytes")
    return name


def check_path(path: str) -> str:
    """A relative path as it is. Raises ValueError, which says why, if a part of it cannot be a name (`check_name`)."""
    for part in path.split("/"):
        check_name(part)
    return path


def is_reserved(name: str) -> bool:
    return name.partition(".")[0].rstrip().lower() in RESERVED

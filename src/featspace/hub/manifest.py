"""Weights in folders are verified against a SHA-256 manifest before they are read, and never unpickled.

A manifest is a file `SHA256SUMS` in the format of GNU's `sha256sum -c`, with paths relative to its folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from featspace.utils.checksums import parse_checksum
from featspace.utils.errors import FeatspaceError, UsageError, one_line, suggest
from featspace.utils.files import sha256
from featspace.utils.names import check_name
from featspace.utils.texts import parse_json

MANIFEST = "SHA256SUMS"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}  # to load one is to run what its author wrote
INDEX = ".index.json"  # what the name of a list of the parts that weights are in ends with
WEIGHTS = {".safetensors", ".npz", ".npy", ".h5", ".onnx", ".msgpack"}


def verify_manifest(folder: Path) -> dict[Path, str]:
    """Verifies a folder of weights against the manifest in it; returns its files and their SHA-256, by path.

    Raises FeatspaceError with a line for every listed file that is missing or altered, every weight file that
    is not listed, every pickle, and every listed path that leads out of the folder.
    """
    folder = Path(folder)
    listed = _read_manifest(folder / MANIFEST)
    problems = [line for path, digest in listed.items() if (line := _problem(folder, path, digest))]
    problems += _unlisted(folder, listed)
    if problems:
        raise FeatspaceError(*problems)
    return listed


def check_folder(folder: Path) -> None:
    """Verifies a model's folder before it is loaded.

    If a manifest in it or in one of its two parents lists files of it, they are verified as by
    `verify_manifest`; otherwise only pickles are refused, and lists of parts that lead elsewhere. Raises
    FeatspaceError, also for a missing folder.
    """
    folder = Path(folder)
    listed, root = _listed_below(folder)
    problems = [line for path, digest in listed.items() if (line := _problem(root, path, digest))]
    if not folder.is_dir():
        if listed:
            raise FeatspaceError(f"{folder}: no such folder of weights; {restore(folder)}")
        beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UsageError(f"{folder}: no such folder of weights{suggest(folder.name, beside)}; check its path")
    problems += _unlisted(folder, listed) if listed else _pickles(folder)
    problems += stray_parts(folder.rglob(f"*{INDEX}"))
    if problems:
        raise FeatspaceError(*problems)


def listed_files(folders: Iterable[Path]) -> dict[Path, str]:
    """Verifies folders as `check_folder` does; returns their files and SHA-256, by path, each once.

    A manifest that lists files of a folder is verified and returned whole.
    """
    found: dict[Path, str] = {}
    for folder in folders:
        check_folder(folder)
        listed, root = _listed_below(folder)
        if not listed:
            found |= {path: sha256(path) for path in _files(folder)}
        elif not listed.keys() <= found.keys():
            found |= verify_manifest(root)
    return found


def _listed_below(folder: Path) -> tuple[dict[Path, str], Path]:
    """The files of a folder that the nearest manifest lists, and that manifest's folder."""
    absolute = Path(os.path.abspath(folder))
    for root in map(short, (absolute, *absolute.parents[:2])):
        if (root / MANIFEST).is_file():
            listed = {
                path: digest
                for path, digest in _read_manifest(root / MANIFEST).items()
                if Path(os.path.abspath(path)).is_relative_to(absolute)
            }
            if listed:
                return listed, root
    return {}, folder


def _read_manifest(manifest: Path) -> dict[Path, str]:
    try:
        content = manifest.read_bytes()
    except FileNotFoundError as error:
        raise FeatspaceError(f"{manifest}: the manifest is missing; {restore(manifest)}") from error
    except OSError as error:
        raise FeatspaceError(f"{manifest}: cannot be read ({error.strerror}); {restore(manifest)}") from error
    listed = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            path, digest = parse_checksum(os.fsdecode(line))
        except ValueError as error:
            raise FeatspaceError(f"{manifest}: line {number} is no SHA-256 and path; {restore(manifest)}") from error
        listed[manifest.parent / path] = digest
    return listed


def _problem(root: Path, path: Path, digest: str) -> str | None:
    if not path.resolve().is_relative_to(root.resolve()):
        return f"{path}: {root / MANIFEST} lists a path outside its folder; {restore(root / MANIFEST)}"
    if path.suffix.lower() in PICKLES:
        return None  # reported with the unlisted ones, once
    if not path.is_file():
        return f"{path}: the file is missing; {restore(path)}"
    if sha256(path) != digest:
        return f"{path}: the file was altered (its SHA-256 is not the one in {MANIFEST}); {restore(path)}"
    return None


def _unlisted(folder: Path, listed: dict[Path, str]) -> list[str]:
    known = {Path(os.path.abspath(path)) for path in listed}
    return _pickles(folder) + [
        f"{path}: {MANIFEST} does not list this weight file; remove it, or add its SHA-256 there"
        for path in _files(folder)
        if path.suffix.lower() in WEIGHTS and Path(os.path.abspath(path)) not in known
    ]


def _pickles(folder: Path) -> list[str]:
    return [
        f"{path}: a pickle, which can run code when it is loaded; remove it, or convert it to safetensors"
        for path in _files(folder)
        if path.suffix.lower() in PICKLES
    ]


def stray_parts(indexes: Iterable[Path]) -> list[str]:
    """A line for each list of the parts that weights are in which names anything but files beside it."""
    lines = []
    for index in sorted(indexes):
        try:
            parts = parse_json(index.read_bytes())["weight_map"].values()
            stray = [part for part in parts if not _is_name(part)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            lines.append(f"{index}: not a list of parts (JSON with weight_map); get it again")
            continue
        if stray:
            shown = one_line(repr(stray[0]), 80)
            lines.append(f"{index}: names the part {shown}, which is no file beside it; get it again")
    return lines


def _is_name(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(check_name(name))
    except ValueError:
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def short(path: Path) -> Path:
    """Relative to the working directory where it is inside of it: as a user would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def restore(path: Path) -> str:
    return f"restore it, in a checkout with: git checkout -- {shlex.quote(str(path))}"

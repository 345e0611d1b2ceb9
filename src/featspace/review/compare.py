"""Two files of one name compared by what they say: numbers within a tolerance, pixels, and all else exactly."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from featspace.utils.errors import one_line
from featspace.utils.files import sha256
from featspace.utils.texts import parse_json

TOLERANCE = 1e-4
"""Of a number against the published one b, as a share of max(1, |b|); in a tensor, of its largest number."""
LEVELS = 8
"""Of 255: what a channel of a pixel may differ by."""


class Difference(NamedTuple):
    """One place in which two files do not agree."""

    where: str  # row and column, or whatever names a place in such a file
    published: str
    measured: str


class Comparison(NamedTuple):
    differences: list[Difference]
    deviation: float = 0.0  # the largest of all numbers, as TOLERANCE counts it; 0 of what is none


def compare(published: Path, measured: Path) -> Comparison:
    """Compares two files, or all files in two folders but hidden ones, which tools leave there and no list of sums has.

    A file that cannot be read is a difference.
    """
    if published.is_dir() or measured.is_dir():
        return _merged(_in_folders(published, measured))
    if not published.exists():
        return Comparison([Difference("", "missing", "there")])
    if not measured.exists():
        return Comparison([Difference("", "there", "missing")])
    if published.read_bytes() == measured.read_bytes():
        return Comparison([])
    by_suffix = {".csv": _tables, ".json": _trees, ".png": _pictures, ".safetensors": _tensors}
    try:
        return by_suffix.get(published.suffix, _others)(published, measured)
    except (OSError, ValueError, LookupError, SyntaxError, csv.Error, SafetensorError) as error:
        return Comparison([Difference("", f"cannot be read ({one_line(error)})", "")])


def _in_folders(published: Path, measured: Path) -> Iterator[tuple[str, Comparison]]:
    names = {path.relative_to(top) for top in (published, measured) for path in top.rglob("*") if path.is_file()}
    for name in sorted(name for name in names if not name.name.startswith(".")):
        yield str(name), compare(published / name, measured / name)


def _merged(parts: Iterator[tuple[str, Comparison]]) -> Comparison:
    found, largest = [], 0.0
    for name, part in parts:
        found += [one._replace(where=": ".join(filter(None, (name, one.where)))) for one in part.differences]
        largest = max(largest, part.deviation)
    return Comparison(found, largest)


def _tables(published: Path, measured: Path) -> Comparison:
    """CSV by row and column; a row is named by its number, from 1, and its words."""
    tables = []
    for path in (published, measured):
        with open(path, newline="", encoding="utf-8") as file:
            tables.append(list(csv.reader(file)))
    (columns, *rows), (wanted, *again) = tables
    if columns != wanted:
        return Comparison([Difference("columns", ", ".join(columns), ", ".join(wanted))])
    if len(rows) != len(again):
        return Comparison([Difference("rows", str(len(rows)), str(len(again)))])
    found, largest = [], 0.0
    for number, (row, other) in enumerate(zip(rows, again, strict=True), start=1):
        words = ", ".join(word for word in other if word and not _is_number(word))
        for column, a, b in zip_longest(columns, row, other, fillvalue=""):
            deviation = _deviation(_parsed(a), _parsed(b))
            if deviation > TOLERANCE:
                found.append(Difference(f"row {number} ({words}), {column}", a, b))
            largest = _larger(largest, deviation)
    return Comparison(found, largest)


def _trees(published: Path, measured: Path) -> Comparison:
    """JSON by path, such as clip.photo.cosine.median; whole numbers are counts, and the same."""
    one, other = (dict(leaves(parse_json(path.read_text(encoding="utf-8")))) for path in (published, measured))
    found, largest = [], 0.0
    for path in sorted(one.keys() | other.keys()):
        a, b = (tree.get(path, "missing") for tree in (one, other))
        deviation = _deviation(a, b)
        if deviation > TOLERANCE:
            found.append(Difference(path, str(a), str(b)))
        largest = _larger(largest, deviation)
    return Comparison(found, largest)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is no object or array in a tree of JSON, by its path; an empty one is such, too."""
    if not tree or not isinstance(tree, dict | list):
        yield path, tree
        return
    for key, item in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        yield from leaves(item, f"{path}.{key}" if path else str(key))


def _pictures(published: Path, measured: Path) -> Comparison:
    arrays = []
    for path in (published, measured):
        with Image.open(path) as image:
            arrays.append(np.asarray(image.convert("RGBA")).astype(np.int16))
    one, other = arrays
    if one.shape != other.shape:
        return Comparison([Difference("size", *(f"{a.shape[1]}×{a.shape[0]} pixels" for a in arrays))])
    apart = np.abs(one - other).max(axis=2)
    if apart.max() <= LEVELS:
        return Comparison([])
    y, x = np.unravel_index(apart.argmax(), apart.shape)
    where = f"{np.count_nonzero(apart > LEVELS)} of {apart.size} pixels, the farthest at ({x}, {y})"
    return Comparison([Difference(where, *(str(tuple(map(int, a[y, x, :3]))) for a in arrays))])


def _tensors(published: Path, measured: Path) -> Comparison:
    """A tensor, and what the header says, by name."""
    with safe_open(published, framework="np") as one, safe_open(measured, framework="np") as other:
        if one.metadata() != other.metadata():
            return Comparison([Difference("metadata", str(one.metadata()), str(other.metadata()))])
        if sorted(one.keys()) != sorted(other.keys()):  # noqa: SIM118
            return Comparison([Difference("tensors", *(", ".join(sorted(file.keys())) for file in (one, other)))])
        found, largest = [], 0.0
        for name in sorted(one.keys()):  # noqa: SIM118
            a, b = one.get_tensor(name), other.get_tensor(name)
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                found.append(Difference(name, f"{a.dtype} {a.shape}", f"{b.dtype} {b.shape}"))
                continue
            apart = np.abs(a.astype(np.float64) - b).reshape(-1) / max(1.0, float(np.abs(a).max(initial=0)))
            farthest = int(np.nan_to_num(apart, nan=np.inf).argmax())
            largest = _larger(largest, float(apart[farthest]))
            if not apart[farthest] <= TOLERANCE:
                found.append(Difference(f"{name}[{farthest}]", *(f"{x.flat[farthest]:.6g}" for x in (a, b))))
        return Comparison(found, largest)


def _others(published: Path, measured: Path) -> Comparison:
    return Comparison([Difference("bytes", *(f"SHA-256 {sha256(path)[:8]}…" for path in (published, measured)))])


def _is_number(text: str) -> bool:
    return isinstance(_parsed(text), float)


def _parsed(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _larger(largest: float, deviation: float) -> float:
    """The larger of two; what is no number has no deviation that says how far."""
    return max(largest, deviation) if math.isfinite(deviation) else largest


def _deviation(published: Any, measured: Any) -> float:
    """0 for equal values, infinite for any that are not both fractions."""
    if type(published) is type(measured) and published == measured:
        return 0.0
    if isinstance(published, float) and isinstance(measured, float):
        return abs(published - measured) / max(1.0, abs(published))
    return math.inf

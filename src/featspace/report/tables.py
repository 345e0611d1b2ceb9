"""Tables as the page shows them: numbers rounded for the eye, and as they are for sorting."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.texts import parse_json

NAMES = {"id", "encoder", "layer", "class", "file", "key"}
"""Columns whose values are names even where they look like numbers."""
DIGITS = 4
"""Of a number that is not whole; after the point, in a column that lies within [-1, 1]."""


PAGE = 100
"""Rows of a table that are shown at once."""
ROWS = 10_000
"""Rows of a table that are in the page, at most: the first."""


class Cell(NamedTuple):
    text: str  # as shown
    order: str  # as written in the file, which numbers are sorted by


class Column(NamedTuple):
    name: str
    numeric: bool


class Table(NamedTuple):
    name: str  # of the file
    columns: list[Column]
    rows: list[list[Cell]]  # the first ROWS
    total: int  # of all rows

    @property
    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in row] for row in self.rows]


def read_tables(folder: Path) -> list[Table]:
    """metrics.json, a row a number with its interval, and every CSV of a folder, by name.

    Raises FeatspaceError for one that is damaged.
    """
    found = [_of_json(path) for path in sorted(folder.glob("metrics.json"))]
    return found + [_of_csv(path) for path in sorted(folder.glob("*.csv"))]


def _of_csv(path: Path) -> Table:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise FeatspaceError(
            f"{path}: cannot be read ({one_line(error)}); run the stage that writes it again"
        ) from None
    if not header or any(len(row) != len(header) for row in rows):
        raise FeatspaceError(f"{path}: not a table, its rows differ in length; run the stage that writes it again")
    return table(path, header, rows)


def _of_json(path: Path) -> Table:
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        leaves = dict(_leaves(tree))
    except (OSError, ValueError, AttributeError) as error:
        raise FeatspaceError(
            f"{path}: cannot be read ({one_line(error)}); run the stage that writes it again"
        ) from None
    bounds = {f"{name}_{end}" for name in leaves for end in ("low", "high")}
    rows = []
    for name in leaves:
        if name not in bounds:
            values = [str(leaves.get(key, "")) for key in (name, f"{name}_low", f"{name}_high")]
            numbers = shown(values) if all(_is_number(value) for value in values if value) else None
            rows.append([Cell(name, name), *(numbers or [Cell(value, value) for value in values])])
    columns = [Column("key", False), *(Column(name, True) for name in ("value", "low", "high"))]
    return Table(path.name, columns, rows, len(rows))


def _leaves(tree: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts, by their keys with points between."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", "" if value is None else value


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Cells of a table's texts, by columns of numbers or of words."""
    total, rows = len(rows), rows[:ROWS]
    columns, cells = [], []
    for index, name in enumerate(header):
        texts = [row[index] for row in rows]
        numeric = name not in NAMES and any(texts) and all(_is_number(text) for text in texts if text)
        columns.append(Column(name, numeric))
        cells.append(shown(texts) if numeric else [Cell(text, text) for text in texts])
    return Table(path.name, columns, [list(row) for row in zip(*cells, strict=True)], total)


def shown(texts: Sequence[str]) -> list[Cell]:
    """A column of numbers: whole ones as they are, others all with four digits."""
    if all(re.fullmatch(r"-?\d+", text) for text in texts if text):
        return [Cell(text.replace("-", "−"), text) for text in texts]
    small = all(abs(float(text)) <= 1 for text in texts if text)
    return [Cell(rounded(float(text), small) if text else "", text) for text in texts]


def rounded(value: float, small: bool = False) -> str:
    """Four digits, and all before the point; `small`: four after it. Thousands apart, a true minus sign."""
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    before = 1 if small or value == 0 else math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{min(9, max(0, DIGITS - (0 if small else before)))}f}".replace("-", "−")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text

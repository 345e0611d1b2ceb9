"""What the page says of each figure and table: one list in captions.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from featspace.config.reading import read_yaml

FILE = Path(__file__).with_name("captions.yaml")


class Caption(NamedTuple):
    title: str
    caption: str
    alt: str


@cache
def _listed() -> dict[str, Any]:
    return read_yaml(FILE)


def ordered(names: Iterable[str]) -> list[str]:
    """Names of figures in the order of the list; those that are not in it last, numbers in them by value."""

    def place(name: str) -> tuple[int, list[Any]]:
        found = _entry("figures", name)
        listed = list(_listed()["figures"])
        parts = [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        return listed.index(found[0]) if found else len(listed), parts

    return sorted(names, key=place)


def of_figure(name: str) -> Caption:
    """By the name of its file without suffix; of one that is not in the list the name is all that is said."""
    found = _entry("figures", name)
    if found is None:
        return Caption(name, "", f"The figure {name}")
    pattern, matched = found
    return Caption(**{key: text.replace("{}", matched) for key, text in _listed()["figures"][pattern].items()})


def of_table(name: str) -> str:
    """By the name of its file without suffix; empty if it is not in the list."""
    found = _entry("tables", name)
    return "" if found is None else _listed()["tables"][found[0]].replace("{}", found[1])


def _entry(kind: str, name: str) -> tuple[str, str] | None:
    """The longest key that fits a name, and what its star stands for."""
    for key in sorted(_listed()[kind], key=len, reverse=True):
        if match := re.fullmatch(re.escape(key).replace(r"\*", "(.+)"), name):
            return key, (match.groups() or ("",))[0]
    return None

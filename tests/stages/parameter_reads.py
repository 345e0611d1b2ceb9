"""Which parameters a command reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from featspace.config.params import Params
from featspace.utils.schema import Section


class Reads:
    """Notes each read of a parameter, as its dotted name."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.names: set[str] = set()
        self.sections: dict[int, tuple[str, Section]] = {}  # kept, so that no other gets the same id
        load, get, dump, copy = Params.load, Section.__getattribute__, Section.model_dump, Section.model_copy

        def loaded(path: Path | None = None) -> Params:
            params = load(path)
            for name, profile in params.profiles.items():
                self.watch(profile, name)
            return params

        def read(section: Section, name: str) -> Any:
            value = get(section, name)
            if name in type(section).model_fields and not _sections(value):
                self.note(section, [name])
            return value

        def dumped(section: Section, **given: Any) -> dict[str, Any]:
            self.note(
                section, set(given.get("include") or type(section).model_fields) - set(given.get("exclude") or ())
            )
            return dump(section, **given)

        def copied(section: Section, **given: Any) -> Section:
            result = copy(section, **given)
            if id(section) in self.sections:
                self.watch(result, self.sections[id(section)][0])
            return result

        def of_file(params: Params, name: str) -> Any:
            if name == "seed":
                self.names.add(name)
            return object.__getattribute__(params, name)

        patch.setattr(Params, "load", loaded)
        patch.setattr(Params, "__getattribute__", of_file)
        patch.setattr(Section, "__getattribute__", read)
        patch.setattr(Section, "model_dump", dumped)
        patch.setattr(Section, "model_copy", copied)

    def note(self, section: Section, names: Iterable[str]) -> None:
        if id(section) in self.sections:  # of params.yaml
            self.names.update(f"{self.sections[id(section)][0]}.{name}" for name in names)

    def watch(self, section: Section, path: str) -> None:
        self.sections[id(section)] = path, section
        for name, value in vars(section).items():
            for key, part in _sections(value).items():
                self.watch(part, ".".join(filter(None, (path, name, key))))


def _sections(value: Any) -> dict[str, Section]:
    """The sections that a value is or holds, by their keys."""
    if isinstance(value, Section):
        return {"": value}
    held = value if isinstance(value, dict) else {}
    return {key: part for key, part in held.items() if isinstance(part, Section)}

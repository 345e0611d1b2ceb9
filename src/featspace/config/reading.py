"""YAML files read and validated: what is wrong is named together with what is allowed."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode

from featspace.utils.errors import UsageError
from featspace.utils.schema import Section

FILE = "params.yaml"
LARGEST = 100_000
"""Values that a file can stand for, each counted as often as anchors and merges (`*`, `<<`) repeat it."""


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML file's mapping. Raises UsageError: no file, not YAML (with the line), no mapping, nested or repeated
    without end."""
    try:
        text = path.read_text(encoding="utf-8")
        if (count := _count(YAML(typ="safe", pure=True).compose(text), {})) > LARGEST:
            many = f"{count:,}" if math.isfinite(count) else "endlessly many"
            raise UsageError(f"{path}: its anchors stand for {many} values; write what is meant, {LARGEST:,} at most")
        values = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; run this where {FILE} is, or name the file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error}); name a YAML file") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(error.problem).split())
        raise UsageError(f"{path}: {line}{problem}; mend the YAML there") from error
    except YAMLError as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply; write it flatter") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: it must be a mapping")
    return values


def _count(node: Any, known: dict[int, float]) -> float:
    """The values that a node of a YAML file stands for; infinite if it is in itself. `known`: of nodes seen before."""
    if id(node) not in known:
        known[id(node)] = math.inf  # if it is met inside of itself
        parts = node.value if isinstance(node, CollectionNode) else []
        parts = (part for pair in parts for part in pair) if isinstance(node, MappingNode) else parts
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


_RULES = {  # pydantic's error type -> what the value must do
    "greater_than": "be greater than {gt:g}",
    "greater_than_equal": "be at least {ge:g}",
    "less_than": "be less than {lt:g}",
    "less_than_equal": "be at most {le:g}",
    "multiple_of": "be a multiple of {multiple_of:g}",
    "finite_number": "be finite",
    "int_type": "be a whole number",
    "float_type": "be a number",
    "string_type": "be text",
    "string_too_short": "not be empty",
    "string_pattern_mismatch": "consist of lowercase letters, digits and underscores",
    "literal_error": "be {expected}",
    "list_type": "be a list",
    "too_short": "have at least {min_length} entries",
    "too_long": "have at most {max_length} entries",
    "dict_type": "be a mapping",
    "model_type": "be a mapping",
}


def describe(detail: Any, top: type[Section], sections: Mapping[str, type[Section]]) -> str:
    """One of pydantic's errors as a line: where, what is there, what is allowed.

    `sections` says which section is under which key, `top` is the one around them.
    """
    loc = [str(part) for part in detail["loc"]]
    loc = loc[loc[0] == "profiles" :]  # in the file they are not under a key of their own
    kind, context, value = detail["type"], detail.get("ctx", {}), reprlib.repr(detail["input"])
    if kind == "missing":
        return f"{'.'.join(loc)} is missing"
    if kind == "extra_forbidden":
        section = next((sections[part] for part in reversed(loc[:-1]) if part in sections), top)
        return f"{'.'.join(loc)}: {value} is not a parameter{_choices(loc[-1], section.model_fields)}"
    if kind == "value_error" and loc[-1:] == ["[key]"]:
        return f"{'.'.join(loc[:-2]) or 'the file'} has the key {value}, which no file can have: {context['error']}"
    if kind == "value_error":
        return f"{'.'.join(loc)}.{context['error']}"
    allowed = f"it must {_RULES[kind].format(**context)}" if kind in _RULES else detail["msg"]
    if loc[-1:] == ["[key]"]:
        return f"{'.'.join(loc[:-2]) or 'the file'} has the key {value}: {allowed}"
    return f"{'.'.join(loc)} is {value}: {allowed}"


def _choices(given: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{hint}; there are: {', '.join(known)}"

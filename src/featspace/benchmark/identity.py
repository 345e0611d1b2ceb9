"""What an image of the benchmark depends on, as one sum: where it differs, the image is decoded anew."""

from __future__ import annotations

import ast
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import featspace

SHARED = ("encoders.encoder", "pipelines.problem", "benchmark.measure")
"""Modules that, with all that they import, every method's images and numbers come from, beside the method's own."""
FOLDERS = ("encoders/adapters", "benchmark")
"""Folders whose modules are imported by name, or use all methods: each file counts, not what it imports."""


def identity_of(**parts: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_sum(module: str) -> str:
    """SHA-256 of the source of a method's module, of all that it imports of featspace, and of what methods share."""
    digest = hashlib.sha256()
    shared = set().union(*(_imported(f"featspace.{name}") for name in SHARED))
    beside = {file for name in FOLDERS for file in Path(featspace.__path__[0], name).glob("*.py")}
    for file in sorted(shared | beside | _imported(module)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _imported(module: str) -> set[Path]:
    """The file of a module of featspace and of those that it imports, directly or not."""
    waiting, found = [module], {}
    while waiting:
        name = waiting.pop()
        if name in found or (file := _file(name)) is None:
            continue
        found[name] = file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("featspace"):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return set(found.values())


def _file(module: str) -> Path | None:
    """A module's file; None where the name is of something inside of a module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None

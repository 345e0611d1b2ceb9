"""What a page was made from, and where: commit, weights, versions, machine."""

from __future__ import annotations

import io
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from ruamel.yaml import YAML

from featspace.config.params import Params, Profile
from featspace.utils.devices import GIB, choose_device, device_name
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.texts import parse_json

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "open_clip_torch",
    "numpy",
    "scikit-image",
    "pillow",
    "matplotlib",
    "dvc",
)


class Commit(NamedTuple):
    id: str
    date: str  # ISO 8601, as committed
    changed: list[str]  # tracked files that differ from it


class Weights(NamedTuple):
    source: str  # where it is: a folder, or repository and revision
    file: str
    sha256: str
    bytes: int


def read_commit(root: Path) -> Commit | None:
    """The commit that is checked out in `root`; None if that is not the top of a git checkout, or there is no git."""
    top = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if not top or len(lines := top.splitlines()) != 2 or Path(lines[0]).resolve() != root.resolve():
        return None
    date = _git(root, "show", "--no-patch", "--format=%cI", "HEAD")
    changed = _git(root, "diff", "--name-only", "-z", "HEAD")
    return None if date is None or changed is None else Commit(lines[1], date.strip(), changed.split("\0")[:-1])


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, errors="replace")
    except OSError:  # no git here
        return None
    return done.stdout if done.returncode == 0 else None


def read_weights(path: Path) -> list[Weights]:
    """The files that `featspace fetch` listed. Raises FeatspaceError if the list is damaged."""
    try:
        listed = parse_json(path.read_text(encoding="utf-8"))
        own = [Path(entry["path"]) for entry in listed["files"]]
        found = [
            Weights(file.parent.as_posix(), file.name, str(entry["sha256"]), int(entry["bytes"]))
            for file, entry in zip(own, listed["files"], strict=True)
        ]
        for pin in listed["hub"]:
            source = " ".join(filter(None, (pin["repository"], pin["revision"])))
            found += [Weights(source, name, x["sha256"], x["bytes"]) for name, x in pin["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeatspaceError(f"{path}: not a list of weights ({one_line(error)}); run `featspace fetch` anew") from None
    return found


def versions() -> dict[str, str]:
    """Of Python, and of the packages that computed; those that are not installed are left out."""
    return {"Python": platform.python_version(), **dict(_installed(PACKAGES))}


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def hardware() -> dict[str, str]:
    """This machine, by what is of interest of it."""
    cores = psutil.cpu_count(logical=False)
    device = choose_device()
    return {
        "Processor": device_name(torch.device("cpu")).rsplit(",", 1)[0],
        "Cores": f"{psutil.cpu_count()} logical" + (f", {cores} physical" if cores else ""),
        "Instruction set": f"{torch.backends.cpu.get_cpu_capability()} (as PyTorch uses it)",
        "Memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "GPU": device_name(device) if device.type == "cuda" else "none that PyTorch can use",
        "System": platform.platform(terse=True),
    }


def as_yaml(params: Params, profile: Profile) -> str:
    """A profile's parameters, defaults included, and the seed."""
    values: dict[str, Any] = {"seed": params.seed, **profile.model_dump(mode="json")}
    buffer, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(values, buffer)
    return buffer.getvalue()

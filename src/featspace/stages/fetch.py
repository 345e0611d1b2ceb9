"""What `featspace fetch` does: every weight file of a profile, or of a network, got and verified."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from featspace.hub.lock import LOCK, read_lock, write_lock
from featspace.hub.manifest import listed_files
from featspace.hub.published import download, find_pin
from featspace.utils.files import atomic_file


def run_fetch(networks: Iterable[str], out: Path, root: Path = Path(), report: Callable[[str], None] = print) -> None:
    """Verifies those networks that are folders of weights, gets the published ones, and lists them in a JSON file.

    The file holds `files` (path relative to `root`, sha256 and bytes of each, sorted; the whole manifest where
    there is one) and `hub` (what each published network is pinned to). `report` is given a line for each published
    network, with the size to download and its licence, before the first download starts. What the lock in `root`
    did not know is recorded there. Raises UsageError and FeatspaceError as `manifest.check_folder` and, in `published`,
    `find_pin` and `download` do; then nothing is written but downloaded files in the libraries' caches.
    """
    networks = set(networks)
    published = sorted(name for name in networks if ":" in name and not (root / name).is_dir())
    found = listed_files(root / name for name in sorted(networks.difference(published)))
    entries = [
        {"path": Path(os.path.relpath(path, root)).as_posix(), "sha256": digest, "bytes": path.stat().st_size}
        for path, digest in found.items()
    ]
    entries.sort(key=lambda entry: str(entry["path"]))
    hub = _fetch(published, root, report)
    with atomic_file(out) as partial:
        partial.write_text(json.dumps({"files": entries, "hub": hub}, indent=1) + "\n", encoding="utf-8")


def _fetch(networks: list[str], root: Path, report: Callable[[str], None]) -> list[dict]:
    lock = read_lock(root)
    pins = {network: find_pin(network, lock.get(network)) for network in networks}
    total = 0
    for network, pin in pins.items():
        size = sum(pin.files[name].bytes for name in pin.missing())
        total += size
        at = f" at {pin.revision[:12]}" if pin.revision else ""
        here = "installed" if pin.is_package else "in the cache"
        todo = f"{_bytes(size)} to download" if size else here
        new = "" if lock.get(network) == pin else f", to be pinned in {LOCK}"
        report(f"{network}: {pin.repository}{at}{new}; {todo}; licence: {pin.license}")
    if total:
        report(f"{_bytes(total)} to download in all")
    pins = {network: download(network, pin) for network, pin in pins.items()}
    if not pins.items() <= lock.items():
        write_lock(root, lock | pins)
    return [{"network": network, **pin.model_dump()} for network, pin in pins.items()]


def _bytes(size: int) -> str:
    return tqdm.format_sizeof(size, "B")

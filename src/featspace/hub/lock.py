"""data/weights.lock: to what published networks are pinned, by the name that params.yaml gives them.

A JSON file in git, looked for in the folder of params.yaml: of each network the repository or Python package, its
commit or version, the page of its licence, and size and SHA-256 of each file. What is not known of a network,
`featspace fetch` records there the first time; it is enforced from then on, by it and by whatever loads the network.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from pydantic import Field, TypeAdapter, ValidationError

from featspace.hub.manifest import restore, short
from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.files import atomic_file
from featspace.utils.schema import FileName, RelativePath, Section

LOCK = "data/weights.lock"
PACKAGE = "package:"  # what the repository of weights in a Python package begins with


class File(Section):
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{0,64}$")  # before the first fetch its first digits, as far as published


class Pin(Section):
    """One network's entry in the lock; with no files before the first fetch."""

    repository: str
    revision: FileName | None  # commit; version of a Python package; null for a web address
    license: str
    files: dict[RelativePath, File]

    @property
    def folder(self) -> Path:
        """Where the library that fetches such files keeps them; not of a Python package."""
        if self.revision is None:
            import torch  # takes seconds

            return Path(torch.hub.get_dir()) / "checkpoints"
        return repository_cache(self.repository) / "snapshots" / self.revision

    @property
    def is_package(self) -> bool:
        return self.repository.startswith(PACKAGE)

    def missing(self) -> list[str]:
        """The files to download; of a Python package there are none."""
        return [] if self.is_package else [name for name in self.files if not (self.folder / name).is_file()]


_Lock = TypeAdapter(dict[str, Pin])


def read_lock(root: Path) -> dict[str, Pin]:
    """The pins, by network: of the lock in `root`, else of the one that is installed with the package, if any.

    Raises FeatspaceError if it cannot be read.
    """
    path = root / LOCK if (root / LOCK).exists() else Path(__file__).parents[1] / LOCK
    try:
        return _Lock.validate_json(path.read_bytes()) if path.exists() else {}
    except (OSError, ValidationError) as error:
        raise FeatspaceError(f"{short(path)}: cannot be read ({one_line(error)}); {restore(path)}") from error


def write_lock(root: Path, pins: dict[str, Pin]) -> None:
    with atomic_file(root / LOCK) as partial:
        entries = {network: pins[network].model_dump() for network in sorted(pins)}
        partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def repository_cache(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")

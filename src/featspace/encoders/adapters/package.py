"""package: networks of timm with the weights of a Python package, which `featspace.hub.package` finds."""

from __future__ import annotations

from pathlib import Path

from featspace.encoders.adapters import Network
from featspace.encoders.adapters import timm as timm_networks
from featspace.hub.package import published


def load(name: str, folder: Path | None) -> Network:
    """A network of a package with the weights that `verify` wrote. Raises UsageError for an unknown one."""
    architecture = published(f"package:{name}").architecture
    if folder is None:
        return timm_networks.load(architecture, None)
    return timm_networks.load_folder(folder, {"architecture": architecture})

"""Where a profile's images and tables lie, for the figures that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featspace.utils.errors import FeatspaceError, one_line
from featspace.utils.names import check_name


@dataclass(frozen=True)
class Source:
    """`data` holds targets, decoded, layers, mixtures, spread and ablation; `tables` the CSVs measured of them."""

    data: Path
    tables: Path
    encoders: Sequence[str]
    """In the paper's order: CLIP, a convolutional network, a ViT."""

    @property
    def targets(self) -> Path:
        return self.data / "targets"

    def decoded(self, encoder: str) -> Path:
        return self.data / "decoded" / encoder

    def photo(self, target: str) -> Path:
        """Raises FeatspaceError for a name, of a table, that no target can have."""
        try:
            return self.targets / f"{check_name(target)}.png"
        except ValueError as error:
            shown = f"the target {one_line(repr(target), 80)}, as none can be called ({error})"
            raise FeatspaceError(f"{self.tables}: a table names {shown}; write it again") from None

    def table(self, name: str) -> Path:
        return self.tables / f"{name}.csv"

    @property
    def depths(self) -> list[str]:
        """The encoders whose layers were decoded."""
        return [encoder for encoder in self.encoders if (self.data / "layers" / encoder).is_dir()]

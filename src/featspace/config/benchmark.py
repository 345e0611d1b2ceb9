"""The benchmark's parameters, `bench/params.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from featspace.config.reading import describe, read_yaml
from featspace.utils.errors import UsageError, suggest
from featspace.utils.schema import Name, Section, Text


class Images(Section):
    """The first photographs of a folder of targets, and the images decoded from each."""

    photos: int = Field(ge=1)
    samples: int = Field(1, ge=1)


class BenchEncoder(Section):
    network: Text  # what encoder.load_encoder takes
    layer: Text | None = None  # null: the network's own feature; a module's name, or unpooled: that map
    clip_std: float | None = Field(3.0, gt=0)  # of the paper's update: gradient clamped to mean ± clip_std·std
    judge: Text  # another network, which takes no part in guidance
    curve: list[Annotated[int, Field(ge=2)]] = []  # further budgets of `fast`


class BenchParams(Section):
    seed: int = Field(0, ge=0, lt=2**63)
    root: Text = "."  # what relative paths below, and data/weights.lock, are meant from; from where this file is
    prior: Text  # a folder, or diffusers:<repo>
    precision: Literal["float32", "bfloat16"] = "float32"  # of the prior
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: int = Field(8, ge=1)  # images decoded at once, at most; images of another batch differ by rounding
    evaluations: int = Field(128, ge=8)  # guided evaluations of an image, of every method
    tuning: Images  # decoded at each of a method's weights
    compared: Images  # decoded by each method at the best of its weights
    fast: Images  # decoded by `fast`
    encoders: dict[Name, BenchEncoder] = Field(min_length=1)  # on which each method's weight is tuned
    unseen: dict[Name, BenchEncoder] = {}  # on which nothing is tuned: decoded with the weights of another

    @classmethod
    def load(cls, path: Path) -> BenchParams:
        """Reads and validates the file. Raises UsageError: no file, not YAML, an unknown key, a value out of range."""
        try:
            return cls.model_validate(read_yaml(path))
        except ValidationError as error:
            sections: dict[str, type[Section]] = {"encoders": BenchEncoder, "unseen": BenchEncoder}
            sections |= dict.fromkeys(("tuning", "compared", "fast"), Images)
            # A mistyped key first: it is also why another one is missing.
            detail = min(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
            raise UsageError(f"{path}: {describe(detail, cls, sections)}") from error

    def encoder(self, name: str) -> BenchEncoder:
        """Raises UsageError if there is none of that name."""
        known = self.encoders | self.unseen
        if name not in known:
            raise UsageError(f"encoder {name!r}: there is none{suggest(name, known)}; there are: {', '.join(known)}")
        return known[name]

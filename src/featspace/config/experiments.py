"""The sections of a profile whose features are not simply those of its targets, or whose settings are varied."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from featspace.utils.schema import Name, Section, Text

Share = Annotated[float, Field(gt=0, lt=1)]
Value = str | int | float | None


class MixtureParams(Section):
    """Features of an encoder that no photograph has: between two targets, and of classes."""

    between: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] = []  # pairs of targets
    at: list[Share] = [0.25, 0.5, 0.75]  # of the way from the first to the second
    classes: dict[Name, Annotated[int, Field(ge=0)]] = {}  # name: place among the classifier's classes


class SpreadParams(Section):
    """Many samples of one target."""

    encoder: Name
    target: Name
    samples: int = Field(10, ge=2)


class AblationParams(Section):
    """The paper's method with each of its parts varied: what is not said is as in `decode`, or as the encoder's."""

    encoder: Name
    targets: list[Name] = Field(min_length=1)
    base: dict[Text, Value] = {}  # parameters of `decode`, and clip_std
    settings: dict[Name, dict[Text, Value]] = Field(min_length=1)  # what each changes of `base`


SECTIONS: dict[str, type[Section]] = {
    "mixtures": MixtureParams,
    "spread": SpreadParams,
    "ablation": AblationParams,
}
"""By their keys, for messages that list what is known there."""

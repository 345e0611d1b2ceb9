"""params.yaml, validated: a wrong key or value is named together with what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from featspace.config import experiments, featinv
from featspace.config.experiments import AblationParams, MixtureParams, SpreadParams
from featspace.config.featinv import FeatInvParams
from featspace.config.reading import FILE, _choices, describe, read_yaml
from featspace.utils.errors import UsageError
from featspace.utils.schema import FileName, Name, Section, Text

Quality = Annotated[int, Field(ge=1, le=100)]


class EncoderParams(Section):
    """A target network and how the decoder is guided by it."""

    network: Text  # what encoder.load_encoder takes
    layer: Text | None = None  # null: the network's own feature; a module's name, or unpooled: that map
    clip_std: float | None = Field(3.0, gt=0)  # of preset paper: gradient clamped to mean ± clip_std·std; null: not
    guidance_weight: float | None = Field(None, ge=0)  # of preset paper: in place of decode.guidance_weight


class DecodeParams(Section):
    """How the guided decoder goes about it: `fast` by its budget, `paper` by its schedule (12,960 evaluations)."""

    preset: Literal["fast", "paper"] = "fast"
    evaluations: int = Field(128, ge=2)  # of preset fast: guided evaluations an image
    stop_at: float | None = Field(None, ge=0)  # of preset fast: squared distance at which an image is done; null: never
    tiny_vae: Text | None = None  # of preset fast: a small autoencoder to guide through in its first half
    # Of preset paper:
    steps: int = Field(1000, ge=2, le=1000)  # of the 1000 that the prior was trained with
    recurrences: int = Field(8, ge=1)  # evaluations a step
    emphasis_steps: int = Field(5, ge=0)  # the first steps, with evaluations of their own number:
    emphasis_recurrences: int = Field(1000, ge=1)
    guidance_weight: float = Field(4.0, ge=0)
    samples: int = Field(1, ge=1)  # images a target
    batch: int = Field(8, ge=1)  # images decoded at once; by rounding those of another batch differ
    precision: Literal["float32", "bfloat16"] = "float32"  # of the prior; the encoder is always float32
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU if there is one

    @property
    def options(self) -> dict[str, Any]:
        """What the preset itself takes: its budget, or its schedule."""
        schedule = {"steps", "recurrences", "emphasis_steps", "emphasis_recurrences"}
        return self.model_dump(include={"evaluations", "stop_at"} if self.preset == "fast" else schedule)

    @property
    def group(self) -> int:
        """Consecutive targets that are decoded at once: as many as have all their samples in a batch, at least one."""
        return max(1, self.batch // self.samples)

    def refuse_idle(self, given: Iterable[str]) -> None:
        """Raises UsageError if one of the parameters `given` has no effect in this preset."""
        own = {
            "fast": ("evaluations", "stop_at"),
            "paper": ("steps", "recurrences", "emphasis_recurrences", "guidance_weight"),
        }
        for preset, names in own.items():
            for name in names:
                if preset != self.preset and name in given:
                    raise UsageError(f"{name} is of the preset {preset}, not of {self.preset}: name that preset too")

    def revised(self, **changes: Any) -> DecodeParams:
        """These parameters with some of another value. Raises UsageError for one that is out of range."""
        try:
            return DecodeParams.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise UsageError(describe(error.errors()[0], Profile, _SECTIONS).removeprefix(".")) from error

    @model_validator(mode="after")
    def _emphasis_within_steps(self) -> DecodeParams:
        if self.emphasis_steps > self.steps:
            allowed = f"it must be at most steps, {self.steps}"
            raise ValueError(f"emphasis_steps is {self.emphasis_steps}: {allowed}")
        return self


class PhotoParams(Section):
    """A target photograph, or a folder of them."""

    image: Text  # `skimage:<name>`, `paper:<path>`, a path, or a folder of images
    crop: list[int] | None = Field(None, min_length=3, max_length=3)  # left, top, side; null: centered


class SimilarityParams(Section):
    photographs: Text | None = None  # folder of reference features, <encoder>.safetensors; null: the other targets'
    jpeg: list[Quality] = Field([95, 75, 50], min_length=1)  # qualities of the reference copies
    bootstrap: int = Field(2000, ge=1)  # resamples of an interval


class Profile(Section):
    prior: Text  # a folder, or diffusers:<repo>
    resolution: int = Field(ge=16, le=2048, multiple_of=8)  # pixels a side
    encoders: dict[Name, EncoderParams] = Field(min_length=1)
    judge: Text  # a network that takes no part in guidance: none of the others
    decode: DecodeParams = DecodeParams()
    photos: dict[Name, PhotoParams] = {}
    captions: dict[Name, Text] = {}
    captions_file: Text | None = None  # captions of the photos, as JSON of MS COCO's form
    similarity: SimilarityParams = SimilarityParams()
    # What each layer keeps: of an encoder, module names (or unpooled, pooled) by depth, and the evaluations of each.
    layers: dict[Name, dict[FileName, Annotated[int, Field(ge=2)]]] = {}
    mixtures: dict[Name, MixtureParams] = {}  # by encoder
    spread: SpreadParams | None = None
    ablation: AblationParams | None = None
    featinv: FeatInvParams = FeatInvParams()

    @model_validator(mode="after")
    def _targets(self) -> Profile:
        if both := sorted(self.photos.keys() & self.captions.keys()):
            raise ValueError(f"captions.{both[0]} has the name of a photo: rename one of them")
        if not self.photos and not self.captions:
            raise ValueError("photos and captions are both empty: name at least one target")
        named = {f"layers.{name}": name for name in self.layers} | {f"mixtures.{name}": name for name in self.mixtures}
        for section, own in (("spread", self.spread), ("ablation", self.ablation)):
            named |= {} if own is None else {f"{section}.encoder": own.encoder}
        if unknown := [place for place, name in named.items() if name not in self.encoders]:
            name = named[unknown[0]]
            raise ValueError(f"{unknown[0]}: {name} is not an encoder{_choices(name, self.encoders)}")
        return self

    @model_validator(mode="after")
    def _judge_takes_no_part(self) -> Profile:
        for section, networks in (("encoders", self.encoders), ("featinv.controlnets", self.featinv.controlnets)):
            for name, own in networks.items():
                if normpath(own.network) == normpath(self.judge):
                    same = f"judge is {self.judge}, the network of {section}.{name} too"
                    raise ValueError(f"{same}, which would judge itself: name another")
        return self

    @property
    def networks(self) -> set[str]:
        """Every network that the profile names."""
        tiny = [] if self.decode.tiny_vae is None else [self.decode.tiny_vae]
        return {self.prior, self.judge, *(encoder.network for encoder in self.encoders.values()), *tiny}

    def encoder(self, name: str) -> EncoderParams:
        """Raises UsageError, which lists the encoders, if there is none of that name."""
        if name not in self.encoders:
            raise UsageError(f"encoder {name!r} is not in the profile{_choices(name, self.encoders)}")
        return self.encoders[name]

    def layers_of(self, encoder: str) -> list[str]:
        """The layers of an encoder, by depth. Raises UsageError, which lists encoders, if the profile names none."""
        if not self.layers.get(encoder):
            raise UsageError(f"layers of {encoder!r} are not in the profile{_choices(encoder, self.layers)}")
        return list(self.layers[encoder])

    def mixture(self, encoder: str) -> MixtureParams:
        """Raises UsageError, which lists the encoders, if the profile names no mixtures of it."""
        if encoder not in self.mixtures:
            raise UsageError(f"mixtures of {encoder!r} are not in the profile{_choices(encoder, self.mixtures)}")
        return self.mixtures[encoder]

    @property
    def own_ablation(self) -> AblationParams:
        """Raises UsageError if the profile has none."""
        if self.ablation is None:
            raise UsageError("the profile has no section ablation: add one, or name another profile")
        return self.ablation

    def guidance_weight(self, encoder: str) -> float:
        """The weight w for an encoder: its own, or else that of `decode`."""
        own = self.encoder(encoder).guidance_weight
        return self.decode.guidance_weight if own is None else own


class _File(Section):
    seed: int = Field(ge=0, lt=2**63)
    profiles: dict[Name, Profile]


@dataclass(frozen=True)
class Params:
    """What params.yaml says; relative paths in it are meant from `root`, the folder that holds it."""

    path: Path
    seed: int
    profiles: dict[str, Profile]

    @property
    def is_packaged(self) -> bool:
        """Whether it is the one that is installed with the package, outside a checkout."""
        return self.path == PACKAGED

    @property
    def root(self) -> Path:
        """Of the packaged one the working directory."""
        return Path() if self.is_packaged else self.path.parent

    @classmethod
    def load(cls, path: Path | None = None) -> Params:
        """Reads and validates a parameter file.

        By default that of the working directory, else that of the checkout the package is installed from, else the
        packaged one.
        Raises UsageError: no file, not YAML (with the line), an unknown key, a value of wrong type or range.
        """
        path = _find() if path is None else Path(path)
        values = read_yaml(path)
        seed = {"seed": values["seed"]} if "seed" in values else {}
        profiles = {key: value for key, value in values.items() if key != "seed"}
        try:
            file = _File.model_validate({**seed, "profiles": profiles})
        except ValidationError as error:
            # A mistyped key first: it is also why another one is missing.
            details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
            lines = [describe(detail, Profile, _SECTIONS) for detail in details]
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            raise UsageError(f"{path}: {lines[0]}{more}") from error
        if not file.profiles:
            raise UsageError(f"{path}: no profile in it; add one, such as `mini`")
        return cls(path, file.seed, file.profiles)

    def profile(self, name: str) -> Profile:
        """Raises UsageError, which lists the profiles, if there is none of that name."""
        if name not in self.profiles:
            raise UsageError(f"{self.path}: profile {name!r} does not exist{_choices(name, self.profiles)}")
        return self.profiles[name]


PACKAGED = Path(__file__).resolve().parents[1] / FILE
"""The checkout's parameter file, as it is installed with the package."""


def _find() -> Path:
    here, checkout = Path(FILE), PACKAGED.parents[2] / FILE
    return next((path for path in (here, checkout, PACKAGED) if path.is_file()), here)


_SECTIONS: dict[str, type[Section]] = {
    "encoders": EncoderParams,
    "decode": DecodeParams,
    "photos": PhotoParams,
    "similarity": SimilarityParams,
    "featinv": FeatInvParams,
    **experiments.SECTIONS,
    **featinv.SECTIONS,
}


def encoder_params(profile: Profile, encoder: str, layer: str | None = None) -> EncoderParams:
    """The profile's settings of an encoder, or default ones for a network that is named directly.

    `layer`, if given, stands in for the encoder's own.
    """
    if encoder not in profile.encoders and (":" in encoder or Path(encoder).is_dir()):
        network = str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder
        return EncoderParams(network=network, layer=layer)
    own = profile.encoder(encoder)
    return own if layer is None else own.model_copy(update={"layer": layer})

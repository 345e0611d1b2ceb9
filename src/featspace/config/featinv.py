"""The section `featinv` of a profile. The defaults are the published values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from featspace.utils.schema import Name, Section, Text


class ControlNetParams(Section):
    """A network's feature map, and the ControlNet that was trained to decode it."""

    folder: Text  # in diffusers' layout; `featspace featinv train` writes it
    network: Text  # what encoder.load_encoder takes
    layer: Text | None = "unpooled"  # or a module's name; null: the pooled feature, the same at every position
    input_size: int | None = Field(None, ge=16, le=2048)  # pixels a side, in place of the network's own
    epochs: float | None = Field(None, gt=0)  # in place of training.epochs


class TrainingParams(Section):
    """How a ControlNet is trained: AdamW on the error of the predicted noise, nothing else."""

    photographs: Text | None = None  # folder of train and val, each of class folders; or of train.parquet, val.parquet
    crop: int = Field(288, ge=16, le=2048)  # pixels a side of the random resized crop, which is also mirrored
    min_scale: float = Field(0.08, gt=0, le=1)  # smallest area of the crop, as a share of the photograph
    epochs: float = Field(3, gt=0)
    batch: int = Field(8, ge=1)  # photographs a step, over all GPUs
    accumulate: int = Field(1, ge=1)  # parts that a GPU's share of them is computed in, one after the other
    lr: float = Field(1e-5, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.01, ge=0)
    min_snr: float | None = Field(None, gt=0)  # errors count by min(SNR, min_snr)/SNR (Hang et al. 2023); null: alike
    drop: float = Field(0.15, ge=0, lt=1)  # how often hint and prompt are emptied
    hint_width: int = Field(512, ge=8)  # channels inside of the hint's embedding
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # the latter where the device multiplies in it
    workers: int = Field(8, ge=0)  # processes a GPU that read photographs
    validations: int = Field(10, ge=1)
    checkpoint_seconds: float = 600


class EvaluationParams(Section):
    """Which held-out photographs are decoded: the first ones of each class in the order of a seeded shuffle."""

    per_class: int = Field(10, ge=1)
    shown: int = Field(8, ge=1)  # in the figure


class TogetherParams(Section):
    """Guided decoding alone, FeatInv alone, and guided decoding that starts from the FeatInv image."""

    evaluations: int = Field(128, ge=4)  # the budget of each way, in guided evaluations
    level: float = Field(0.5, gt=0)  # noise that the FeatInv image gets again, σ = √((1 − ᾱ)/ᾱ): there it is guided
    targets: int = Field(8, ge=1)  # the profile's first ones


class SteerParams(Section):
    """A series of images along a direction of feature space."""

    strengths: list[float] = Field([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0], min_length=1)


class FeatInvParams(Section):
    prior: Text | None = None  # null: the profile's
    resolution: int | None = Field(None, ge=16, le=2048, multiple_of=8)  # null: the profile's
    prompt: str = "a high-quality, detailed, and professional image"
    guidance_scale: float = Field(1.75, ge=1)  # over the prompt, the hint being in both predictions; 1: none
    steps: int = Field(50, ge=1, le=1000)  # of DDIM
    batch: int = Field(8, ge=1)  # images decoded at once; images of another batch differ by rounding
    precision: Literal["float32", "bfloat16"] = "float32"
    controlnets: dict[Name, ControlNetParams] = {}
    training: TrainingParams = TrainingParams()
    evaluation: EvaluationParams = EvaluationParams()
    together: TogetherParams = TogetherParams()
    steer: SteerParams = SteerParams()


SECTIONS: dict[str, type[Section]] = {
    "controlnets": ControlNetParams,
    "training": TrainingParams,
    "evaluation": EvaluationParams,
    "together": TogetherParams,
    "steer": SteerParams,
}
"""By their keys, for messages that list what is known there."""

"""The ControlNet: diffusers' own, with a feature map as its hint in place of an image, and what it was trained for."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import diffusers
import torch
from diffusers import (
    ControlNetModel,
    ModelMixin,  # noqa: F401 - where from_pretrained finds how to load what is defined here
    UNet2DConditionModel,
)
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from featspace.encoders.encoder import Encoder
from featspace.hub.manifest import check_folder
from featspace.utils.errors import FeatspaceError, explained, one_line
from featspace.utils.files import atomic_dir
from featspace.utils.schema import Section

PAIRING = "pairing.json"


class ConditioningEmbedding(nn.Module):
    """The hint encoder: 3×3 convolutions to `width` channels, SiLU, again, then a zero-initialised one to `channels`.

    Of conditioning (N, C, h, w) that have the latent's size already; until it is trained its output is zero.
    """

    def __init__(self, hint_channels: int, width: int, channels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(hint_channels, width, 3, padding=1)
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        for layer in (self.conv_in, self.conv_mid):  # PyTorch's own would leave a tenth of the hint's variation
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, conditioning: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.conv_mid(F.silu(self.conv_in(conditioning)))))


class FeatureControlNet(ControlNetModel):
    """A ControlNet whose condition is a feature map (N, C, h, w) of any size, or a pooled feature (N, D, 1, 1).

    It has diffusers' configuration, layout and methods; the width of the hint encoder is
    `conditioning_embedding_out_channels`.
    """

    # diffusers reads from its signature what a configuration may hold; mypy knows no decorated constructors.
    @functools.wraps(ControlNetModel.__init__)  # type: ignore[misc]
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        channels, (width,) = self.config.block_out_channels, self.config.conditioning_embedding_out_channels
        self.controlnet_cond_embedding = ConditioningEmbedding(self.config.conditioning_channels, width, channels[0])

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, hint_channels: int, width: int) -> FeatureControlNet:
        """A copy of the first half of `unet`, in float32. Added to it, it changes nothing until it is trained."""
        return cls.from_unet(
            unet, conditioning_embedding_out_channels=(width,), conditioning_channels=hint_channels
        ).float()

    def forward(self, sample: Tensor, timestep, encoder_hidden_states: Tensor, controlnet_cond: Tensor, **options):
        """As of diffusers' ControlNetModel; the hint is brought to the latent's size first, bilinearly."""
        hint = F.interpolate(controlnet_cond.to(sample.dtype), sample.shape[-2:], mode="bilinear")
        return super().forward(sample, timestep, encoder_hidden_states, hint, **options)


class Pairing(Section):
    """What a ControlNet was trained for: it means nothing to another prior, network or layer."""

    prior: str
    prior_fingerprint: str
    network: str
    network_fingerprint: str
    layer: str | None
    input_size: list[int]
    hint: list[int]  # C, h, w

    @classmethod
    def of(cls, prior: str, unet: nn.Module, network: str, encoder: Encoder) -> Pairing:
        """`prior` and `network` are their names, for messages; what counts are the fingerprints."""
        return cls(
            prior=prior,
            prior_fingerprint=fingerprint(unet),
            network=network,
            network_fingerprint=fingerprint(encoder.model),
            layer=encoder.layer,
            input_size=list(encoder.input_size),
            hint=list(conditioning_shape(encoder)),
        )

    def check(self, wanted: Pairing, source: str | Path) -> None:
        """Raises FeatspaceError if a ControlNet that was trained for this is wanted for something else."""

        def differ(what: str, mine: object, other: object, todo: str) -> FeatspaceError:
            return FeatspaceError(f"{source}: trained for {what} {mine}, not {other}; {todo}")

        if self.prior_fingerprint != wanted.prior_fingerprint:
            other = wanted.prior if wanted.prior != self.prior else "the one that is there under that name now"
            raise differ("the prior", self.prior, other, "name that prior, or train one for this")
        if self.network_fingerprint != wanted.network_fingerprint:
            other = wanted.network if wanted.network != self.network else "the one that is there under that name now"
            raise differ("features of", self.network, other, "name that network, or train one for this")
        if self.layer != wanted.layer:
            mine, other = (layer or "the pooled feature" for layer in (self.layer, wanted.layer))
            raise differ("the layer", mine, other, "set `layer`, or train one for it")
        if (self.input_size, self.hint) != (wanted.input_size, wanted.hint):
            mine, other = (f"{each.hint} of images of {each.input_size} pixels" for each in (self, wanted))
            raise differ("maps of shape", mine, other, "set `input_size`")


def conditioning_shape(encoder: Encoder) -> tuple[int, int, int]:
    """(C, h, w) of the encoder's hint; a pooled feature is a map of one position."""
    channels, height, width = encoder.shape if len(encoder.shape) == 3 else (*encoder.shape, 1, 1)
    return channels, height, width


def fingerprint(network: nn.Module) -> str:
    """16 hexadecimal digits of the network's weights, the same in float32 and in half precision as loaded from a file.

    Taken from the names, shapes and first numbers of all tensors, in bfloat16: it tells trainings apart, and is no
    protection against tampering.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        head = tensor.detach().reshape(-1)[:64].cpu().contiguous()
        head = head.to(torch.bfloat16).view(torch.int16) if head.is_floating_point() else head
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()[:16]


def save_controlnet(controlnet: FeatureControlNet, pairing: Pairing, out: Path) -> None:
    """Writes the folder `out`: diffusers' layout in half precision, and pairing.json."""
    with atomic_dir(out) as partial:
        half = FeatureControlNet.from_config(dict(controlnet.config))
        half.load_state_dict(controlnet.state_dict())
        half.half().save_pretrained(partial)
        (partial / PAIRING).write_text(pairing.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_controlnet(folder: Path, wanted: Pairing | None = None) -> tuple[FeatureControlNet, Pairing]:
    """A saved ControlNet in float32, verified first, with what it was trained for.

    Raises FeatspaceError if it is missing, altered, a pickle or no such ControlNet, or was trained for anything but
    `wanted`.
    """
    check_folder(folder)
    try:
        pairing = Pairing.model_validate_json((folder / PAIRING).read_bytes())
    except FileNotFoundError as error:
        raise FeatspaceError(f"{folder}: no {PAIRING}, so not of `featspace featinv train`; name its folder") from error
    except (OSError, ValidationError) as error:
        raise FeatspaceError(f"{folder / PAIRING}: cannot be read ({one_line(error)}); get it again") from error
    if wanted is not None:
        pairing.check(wanted, folder)
    diffusers.utils.logging.disable_progress_bar()
    with explained(folder):
        controlnet, loaded = FeatureControlNet.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        if loaded["missing_keys"]:  # diffusers would go on with random numbers in their place
            raise FeatspaceError(f"{folder}: its weights lack {min(loaded['missing_keys'])}; get them again")
        if controlnet.config.conditioning_channels != pairing.hint[0]:
            raise FeatspaceError(f"{folder}: configuration and {PAIRING} do not fit; get them again")
    return controlnet.requires_grad_(False).eval(), pairing

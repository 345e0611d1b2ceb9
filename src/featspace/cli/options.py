"""The app that the commands are registered with, and what several of them take."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from featspace.config.params import Params, Profile
    from featspace.encoders.encoder import Encoder

app = typer.Typer(
    help="Decodes a user-specified feature of any vision network back into images, and measures the match.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ParamsFile = Annotated[
    Path | None,
    typer.Option("--params", help="The parameter file; by default params.yaml here, else featspace's own."),
]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help="The profile of the parameter file; by default mini, outside a checkout paper."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda, in place of the profile's.")]
EncoderName = Annotated[str, typer.Option("--encoder", help="An encoder of the profile, such as clip or vit.")]
Layer = Annotated[
    str | None,
    typer.Option("--layer", help="In place of the encoder's own: a module's name, unpooled, or pooled (its feature)."),
]
Out = Annotated[Path, typer.Option("--out", help="What to write; nothing is there before it is complete.")]


def _without_suffix(out: Path) -> Path:
    return out.with_suffix("") if out.suffix in (".csv", ".png", ".pdf") else out


Stem = Annotated[
    Path,
    typer.Option(
        "--out", help="File name, with or without suffix; .csv, .png and .pdf are written.", callback=_without_suffix
    ),
]
Targets = Annotated[Path, typer.Option("--targets", help="Folder that `featspace targets` wrote.")]
Features = Annotated[Path, typer.Option("--features", help="File that `featspace features` wrote.")]
Decoded = Annotated[Path, typer.Option("--decoded", help="Folder that `featspace decode` wrote.")]


def open_profile(params: Path | None, profile: str | None, device: str | None = None) -> tuple[Params, Profile]:
    """A profile of a parameter file, by default mini, and on `device` if one is given.

    The weights of mini are in a checkout alone: outside of one the default is paper, whose are published.
    """
    from featspace.config.params import Params

    loaded = Params.load(params)
    chosen = loaded.profile(profile or ("paper" if loaded.is_packaged else "mini"))
    if device is not None:
        chosen = chosen.model_copy(update={"decode": chosen.decode.revised(device=device)})
    return loaded, chosen


def open_encoder(params: Params, profile: Profile, name: str, layer: str | None = None) -> Encoder:
    """An encoder of the profile, at `layer` or else at its own, on the device that the profile names."""
    settings = profile.encoder(name)
    return open_network(params, profile, settings.network, layer or settings.layer)


def open_network(params: Params, profile: Profile, network: str, layer: str | None = None) -> Encoder:
    """Any network, on the device that the profile names."""
    from featspace.encoders.encoder import load_encoder
    from featspace.utils.devices import choose_device

    return load_encoder(network, params.root, layer=layer).to(choose_device(profile.decode.device))


def reference_photographs(params: Params, profile: Profile, encoder: str) -> Path | None:
    """The file of the reference photographs' features by an encoder; None where the profile has none."""
    folder = profile.similarity.photographs
    return None if folder is None else params.root / folder / f"{encoder}.safetensors"


def keep_freed_memory() -> None:
    """Has glibc keep what is freed, where it would map and clear every large tensor anew."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap is not given back

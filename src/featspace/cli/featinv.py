"""The commands of the second decoder: `featspace featinv …`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import Device, Out, ParamsFile, ProfileName, Targets, app, open_profile

featinv = typer.Typer(
    help="Decode feature maps into images with a trained ControlNet (FeatInv, arXiv 2505.21032).",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(featinv, name="featinv")

ControlNet = Annotated[str, typer.Option("--controlnet", help="One of the profile's featinv.controlnets.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="A ControlNet's folder in place of the profile's.")]


@featinv.command()
def train(
    controlnet: ControlNet,
    out: Annotated[Path | None, typer.Option(help="By default the folder that the profile names.")] = None,
    work: Annotated[Path | None, typer.Option(help="Checkpoint and validation; by default <out>.unfinished.")] = None,
    curve: Annotated[Path | None, typer.Option(help="Table of what is measured; by default in WORK.")] = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Train a ControlNet for a prior and an encoder; an interrupted training goes on from its checkpoint.

    Several GPUs: accelerate launch --multi_gpu "$(which featspace)" featinv train …
    """
    from featspace.stages.featinv.decoder import controlnet_params
    from featspace.stages.featinv.train import run_train

    loaded, chosen = open_profile(params, profile, device)
    out = out or loaded.root / controlnet_params(chosen, controlnet).folder
    run_train(loaded, chosen, controlnet, out, work or out.with_name(f"{out.name}.unfinished"), curve)


@featinv.command()
def decode(
    controlnet: ControlNet,
    out: Out,
    sources: Annotated[
        list[Path], typer.Argument(help="Photographs, folders of them, or .safetensors files of features.")
    ],
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Decode the feature maps of photographs, or from a file, into images.

    Example: featspace featinv decode photo.jpg --controlnet efficientnet --out decoded
    """
    from featspace.stages.featinv.decode import run_decode

    for row in run_decode(*open_profile(params, profile, device), controlnet, sources, out).itertuples():
        typer.echo(f"{out / f'{row.id}-0.png'}  cosine of maps {row.map_cosine:.4f}")


@featinv.command()
def evaluate(
    controlnet: ControlNet,
    out: Out,
    targets: Annotated[Path | None, typer.Option(help="In place of the held-out photographs: `targets` wrote.")] = None,
    weights: Weights = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Reconstruct held-out photographs from their feature maps and compare the images with the originals."""
    from featspace.stages.featinv.evaluate import run_evaluate

    run_evaluate(*open_profile(params, profile, device), controlnet, out, targets, weights)


@featinv.command()
def summary(
    folders: Annotated[list[Path], typer.Argument(help="Folders that evaluate (several) or together wrote.")], out: Out
) -> None:
    """Summarize evaluations, a row a ControlNet, or the comparison of both decoders, a row a way."""
    from featspace.stages.featinv.summary import run_summary, run_together_summary

    if (folders[0] / "together.csv").is_file():
        run_together_summary(folders[0], out)
    else:
        run_summary(folders, out)


@featinv.command()
def together(
    controlnet: ControlNet,
    targets: Targets,
    out: Out,
    weights: Weights = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Compare guided decoding, FeatInv, and guided decoding from FeatInv's image, on the same targets and budget."""
    from featspace.stages.featinv.together import run_together

    run_together(*open_profile(params, profile, device), controlnet, targets, out, weights)


@featinv.command()
def means(
    controlnet: ControlNet,
    out: Out,
    per_class: Annotated[int, typer.Option(help="Training photographs of each class.", min=1)] = 100,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Write the mean feature map of each class of the training photographs: directions to steer along."""
    from featspace.stages.featinv.steer import run_means

    run_means(*open_profile(params, profile, device), controlnet, out, per_class)


class Drawing(StrEnum):
    reconstructions = "reconstructions"
    together = "together"
    steer = "steer"


@featinv.command()
def figure(
    name: Annotated[Drawing, typer.Argument(help="What to draw.")],
    folders: Annotated[list[Path], typer.Argument(help="Folders that evaluate (several), together or steer wrote.")],
    out: Annotated[Path, typer.Option(help="File name without suffix; .png and .pdf are written.")],
) -> None:
    """Draw a figure from tables and images."""
    from featspace.figures.featinv import run_figure

    run_figure(name.value, folders, out)


@featinv.command()
def steer(
    source: Annotated[Path, typer.Argument(help="A photograph, or a .safetensors file of one feature map.")],
    controlnet: ControlNet,
    direction: Annotated[Path, typer.Option(help="Of `featinv means`, or with a tensor `direction`; .safetensors.")],
    out: Out,
    away: Annotated[str | None, typer.Option(help="A class of the file of means.")] = None,
    toward: Annotated[str | None, typer.Option(help="Another class of it.")] = None,
    strength: Annotated[list[float] | None, typer.Option(help="Several; by default the profile's.")] = None,
    weights: Weights = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Move a feature map along a direction, by several strengths, and decode the series.

    Example: featspace featinv steer cat.jpg --controlnet vit --direction data/models/featinv/means.safetensors
    --away tabby --toward lion --out steered
    """
    from featspace.stages.featinv.steer import run_steer

    loaded, chosen = open_profile(params, profile, device)
    table = run_steer(loaded, chosen, controlnet, source, direction, out, away, toward, strength, weights)
    for row in table.itertuples():
        typer.echo(f"{out / row.file}  strength {row.strength:g}  moved {row.moved:.3f}")

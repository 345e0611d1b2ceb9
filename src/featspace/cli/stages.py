"""The stages of the pipeline, a command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import (
    Decoded,
    Device,
    EncoderName,
    Features,
    Layer,
    Out,
    ParamsFile,
    ProfileName,
    Targets,
    app,
    open_encoder,
    open_network,
    open_profile,
    reference_photographs,
)


@app.command()
def fetch(
    out: Out,
    networks: Annotated[
        list[str] | None, typer.Argument(help="In place of the profile's: folders, timm:…, …", show_default=False)
    ] = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Download what a profile needs, verify every weight file against its SHA-256, and list them.

    Example: featspace fetch autoencoder:madebyollin/taesd --out taesd.json
    """
    from featspace.stages.fetch import run_fetch

    loaded, chosen = open_profile(params, profile)
    named = [str(Path(network).resolve()) if Path(network).is_dir() else network for network in networks or []]
    run_fetch(named or chosen.networks, out, loaded.root, typer.echo)


@app.command()
def targets(out: Out, profile: ProfileName = None, params: ParamsFile = None) -> None:
    """Crop the target photographs of a profile and write its list of targets."""
    from featspace.stages.targets import run_targets

    loaded, chosen = open_profile(params, profile)
    run_targets(chosen, loaded.root, out)


@app.command()
def features(
    encoder: EncoderName,
    targets: Targets,
    out: Out,
    layer: Layer = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Extract an encoder's features of all targets."""
    from featspace.stages.features import run_features

    run_features(open_encoder(*open_profile(params, profile, device), encoder, layer), targets, out)


@app.command()
def similarity(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    decoded: Decoded,
    out: Out,
    references: Annotated[
        Path | None, typer.Option(help="Table of `featspace references`, to certify each image against.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Only this target was decoded; may be repeated.")
    ] = None,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure how near the decoded images come to their targets, from the saved files."""
    from featspace.stages.similarity import run_similarity

    loaded, chosen = open_profile(params, profile, device)
    judge = open_network(loaded, chosen, chosen.judge)
    network = open_encoder(loaded, chosen, encoder)
    run_similarity(encoder, network, judge, targets, features, decoded, out, references, target or [])


@app.command()
def references(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    out: Out,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure what a distance means: to other photographs, JPEG copies and a one-pixel shift of each target."""
    from featspace.stages.similarity import run_references

    loaded, chosen = open_profile(params, profile, device)
    network, photographs = open_encoder(loaded, chosen, encoder), reference_photographs(loaded, chosen, encoder)
    run_references(encoder, network, targets, features, out, photographs, chosen.similarity.jpeg)


@app.command()
def metrics(
    similarity: Annotated[list[Path], typer.Option(help="Tables of `featspace similarity`.")],
    references: Annotated[list[Path], typer.Option(help="Tables of `featspace references`.")],
    out: Out,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Summarize the tables: medians, means, shares, with 95 % bootstrap intervals over targets."""
    from featspace.stages.metrics import run_metrics

    loaded, chosen = open_profile(params, profile)
    run_metrics(similarity, references, out, chosen.similarity.bootstrap, loaded.seed)


@app.command()
def layers(
    encoder: EncoderName,
    targets: Targets,
    decoded: Annotated[Path, typer.Option(help="Folder with, for each layer, a folder LAYER of `decode`.")],
    out: Out,
    summary: Annotated[Path, typer.Option(help="Table of medians, shares and intervals to write, by layer.")],
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure what each layer of an encoder keeps of the photographs, from images decoded from its feature maps."""
    from featspace.stages.layers import run_layers

    loaded, chosen = open_profile(params, profile, device)
    names = chosen.layers_of(encoder)
    judge = open_network(loaded, chosen, chosen.judge)
    networks = ((layer, open_encoder(loaded, chosen, encoder, layer)) for layer in names)  # one at a time in memory
    resamples = chosen.similarity.bootstrap
    run_layers(encoder, networks, judge, targets, decoded, out, summary, resamples, loaded.seed)


@app.command()
def figures(
    out: Annotated[Path | None, typer.Option(help="Folder to write into; by default figures/PROFILE.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the images; by default data/PROFILE.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Folder of the tables; by default figures/PROFILE.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this figure, such as 3; may be repeated.")] = None,
    dpi: Annotated[int | None, typer.Option(help="Dots an inch of the PNGs; by default 600.", min=50, max=4800)] = None,
    profile: Annotated[str, typer.Option("--profile", help="The profile of the parameter file.")] = "mini",
    params: ParamsFile = None,
) -> None:
    """Draw the figures of a profile, as PNG and PDF, from its images and tables.

    Example: featspace figures --only 3 --dpi 1200 --out prints
    """
    from featspace.figures import run_figures
    from featspace.figures.source import Source

    loaded, chosen = open_profile(params, profile)
    data = data or loaded.root / "data" / profile
    tables = tables or loaded.root / "figures" / profile
    source = Source(data, tables, list(chosen.encoders))
    for path in run_figures(source, out or loaded.root / "figures" / profile, only or [], dpi):
        typer.echo(path)


@app.command()
def checksums(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    out: Annotated[Path, typer.Option(help="The list; paths in it are relative to its folder.")],
    without: Annotated[list[Path] | None, typer.Option(help="Files to leave out.")] = None,
) -> None:
    """List the SHA-256 of files, to be checked with `sha256sum -c`."""
    from featspace.utils.checksums import write_checksums

    write_checksums(paths, out, without or [])

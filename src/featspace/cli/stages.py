"""The stages of the pipeline, a command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import (
    Decoded,
    EncoderName,
    Features,
    Out,
    ParamsFile,
    ProfileName,
    Targets,
    app,
    open_encoder,
    open_network,
    open_profile,
)


@app.command()
def fetch(
    out: Out,
    networks: Annotated[
        list[str] | None, typer.Argument(help="In place of the profile's: folders, timm:…, …", show_default=False)
    ] = None,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Download what a profile needs, verify every weight file against its SHA-256, and list them.

    Example: featspace fetch autoencoder:madebyollin/taesd --out taesd.json
    """
    from featspace.fetch import run_fetch

    loaded, chosen = open_profile(params, profile)
    named = [str(Path(network).resolve()) if Path(network).is_dir() else network for network in networks or []]
    run_fetch(named or chosen.networks, out, loaded.root, typer.echo)


@app.command()
def targets(out: Out, profile: ProfileName = "mini", params: ParamsFile = None) -> None:
    """Crop the target photographs of a profile and write its list of targets."""
    from featspace.targets import run_targets

    loaded, chosen = open_profile(params, profile)
    run_targets(chosen, loaded.root, out)


@app.command()
def features(
    encoder: EncoderName, targets: Targets, out: Out, profile: ProfileName = "mini", params: ParamsFile = None
) -> None:
    """Extract an encoder's features of all targets."""
    from featspace.features import run_features

    run_features(open_encoder(*open_profile(params, profile), encoder), targets, out)


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
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Measure how near the decoded images come to their targets, from the saved files."""
    from featspace.similarity import run_similarity

    loaded, chosen = open_profile(params, profile)
    judge = open_network(loaded, chosen, chosen.judge)
    network = open_encoder(loaded, chosen, encoder)
    run_similarity(encoder, network, judge, targets, features, decoded, out, references)


@app.command()
def references(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    out: Out,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Measure what a distance means: to other photographs, JPEG copies and a one-pixel shift of each target."""
    from featspace.similarity import run_references

    loaded, chosen = open_profile(params, profile)
    folder = chosen.similarity.photographs
    photographs = None if folder is None else loaded.root / folder / f"{encoder}.safetensors"
    network = open_encoder(loaded, chosen, encoder)
    run_references(encoder, network, targets, features, out, photographs, chosen.similarity.jpeg)


@app.command()
def metrics(
    similarity: Annotated[list[Path], typer.Option(help="Tables of `featspace similarity`.")],
    references: Annotated[list[Path], typer.Option(help="Tables of `featspace references`.")],
    out: Out,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Summarize the tables: medians, means, shares, with 95 % bootstrap intervals over targets."""
    from featspace.metrics import run_metrics

    loaded, chosen = open_profile(params, profile)
    run_metrics(similarity, references, out, chosen.similarity.bootstrap, loaded.seed)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="photos (Figures 3, 5, 7), captions (Figure 8), or overview.")],
    targets: Targets,
    decoded: Annotated[list[Path], typer.Option(help="Folder that `featspace decode` wrote; several for overview.")],
    table: Annotated[list[Path], typer.Option(help="Table of `featspace similarity`; several for overview.")],
    out: Annotated[Path, typer.Option(help="File name without suffix; .png and .pdf are written.")],
    references: Annotated[list[Path] | None, typer.Option(help="Table of `featspace references`.")] = None,
) -> None:
    """Draw a figure from tables and images."""
    from featspace.figures import run_figure

    run_figure(name, targets, decoded, table, references or [], out)


@app.command()
def checksums(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    out: Annotated[Path, typer.Option(help="The list; paths in it are relative to its folder.")],
) -> None:
    """List the SHA-256 of files, to be checked with `sha256sum -c`."""
    from featspace.files import write_checksums

    write_checksums(paths, out)

"""Stages beside the plain decoding: mixtures of features, the method with its parts varied, what images share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import (
    Decoded,
    Device,
    EncoderName,
    Features,
    Out,
    ParamsFile,
    ProfileName,
    Targets,
    app,
    keep_freed_memory,
    open_encoder,
    open_network,
    open_profile,
    reference_photographs,
)

Mixed = Annotated[Path, typer.Option("--mixed", help="File of features that `featspace mix` wrote.")]


@app.command()
def mix(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    out: Out,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Make features that no photograph has: between two targets, means of classes, a classifier's weights.

    Which, the profile's section `mixtures` says. Beside the file of features a CSV says of each what it is.
    """
    from featspace.stages.mixtures import run_mix

    loaded, chosen = open_profile(params, profile, device)
    network, photographs = open_encoder(loaded, chosen, encoder), reference_photographs(loaded, chosen, encoder)
    run_mix(network, chosen.mixture(encoder), targets, features, out, photographs)


@app.command()
def mixtures(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    mixed: Mixed,
    decoded: Decoded,
    mixtures: Annotated[Path, typer.Option(help="Folder that `featspace decode` made of the mixed features.")],
    out: Out,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure what mixed features decoded to: how near to the feature, and to both of its ends."""
    from featspace.stages.mixtures import run_mixtures

    loaded, chosen = open_profile(params, profile, device)
    judge, network = open_network(loaded, chosen, chosen.judge), open_encoder(loaded, chosen, encoder)
    run_mixtures(encoder, network, judge, targets, features, mixed, decoded, mixtures, out)


@app.command()
def ablate(
    features: Annotated[Path, typer.Argument(help="File that `featspace features` wrote, of the ablation's encoder.")],
    out: Annotated[Path, typer.Option(help="New folder, which gets a folder a setting.")],
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Decode the same features with one part of the method changed at a time.

    Which, the profile's section `ablation` says.
    """
    from featspace.stages.ablate import run_ablate

    keep_freed_memory()
    run_ablate(*open_profile(params, profile, device), features, out)


@app.command()
def ablation(
    targets: Targets,
    features: Features,
    decoded: Annotated[Path, typer.Option(help="Folder that `featspace ablate` wrote.")],
    out: Out,
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure what each part of the method does, from the images of `featspace ablate`."""
    from featspace.stages.ablation import run_ablation, settings_of

    loaded, chosen = open_profile(params, profile, device)
    own = chosen.own_ablation
    judge, network = open_network(loaded, chosen, chosen.judge), open_encoder(loaded, chosen, own.encoder)
    run_ablation(own.encoder, network, judge, settings_of(chosen), own.targets, targets, features, decoded, out)


@app.command()
def agreement(
    targets: Targets,
    decoded: Annotated[list[Path], typer.Option(help="Folders that `featspace decode` wrote.")],
    out: Out,
    summary: Annotated[Path, typer.Option(help="Table of medians and intervals to write, by attribute.")],
    device: Device = None,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Measure which attributes decoded images share with their photograph, with each other, and by chance."""
    from featspace.stages.agreement import run_agreement

    loaded, chosen = open_profile(params, profile, device)
    judge = open_network(loaded, chosen, chosen.judge)
    run_agreement(judge, targets, decoded, out, summary, chosen.similarity.bootstrap, loaded.seed)


@app.command()
def neighbors(
    targets: Targets,
    features: Annotated[list[Path], typer.Option(help="Files that `featspace features` wrote, <encoder>.safetensors.")],
    out: Out,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """List the photographs that are most similar to each target in feature space."""
    from featspace.stages.neighbors import run_neighbors

    loaded, chosen = open_profile(params, profile)
    by_encoder = {path.stem: (path, reference_photographs(loaded, chosen, path.stem)) for path in features}
    run_neighbors(by_encoder, targets, out)


@app.command()
def traces(
    decoded: Annotated[list[Path], typer.Option(help="Folders that `featspace decode` wrote, of an encoder each.")],
    references: Annotated[list[Path], typer.Option(help="Tables of `featspace references`, in the same order.")],
    out: Out,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """List how near the nearest image is after so many evaluations."""
    from featspace.stages.traces import run_traces

    loaded, chosen = open_profile(params, profile)
    run_traces(decoded, references, out, chosen.similarity.bootstrap, loaded.seed)


@app.command()
def claims(
    similarity: Annotated[list[Path], typer.Option(help="Tables of `featspace similarity`.")],
    agreement: Annotated[Path, typer.Option(help="Table of `featspace agreement`.")],
    ablation: Annotated[Path, typer.Option(help="Table of `featspace ablation`.")],
    out: Out,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Hold the paper's claims against the tables: effect, 95 % interval over targets, test, verdict."""
    from featspace.stages.claims import run_claims

    loaded, chosen = open_profile(params, profile)
    run_claims(similarity, agreement, ablation, out, chosen.similarity.bootstrap, loaded.seed)

"""The command line: one command a stage, each a thin call of a module's `run_…`."""

from __future__ import annotations

import sys
import traceback as tracebacks
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featspace.errors import FeatspaceError

if TYPE_CHECKING:
    from featspace.encoders import Encoder
    from featspace.params import Params, Profile

BAD_USAGE: type[Exception] = typer.BadParameter.__base__
"""The common parent of what typer raises for wrong arguments."""

app = typer.Typer(
    help="Decodes a user-specified feature of any vision network back into images, and measures the match.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ParamsFile = Annotated[
    Path | None,
    typer.Option("--params", help="The parameter file; by default params.yaml here, else the checkout's."),
]
ProfileName = Annotated[str, typer.Option("--profile", help="The profile of the parameter file.")]
EncoderName = Annotated[str, typer.Option("--encoder", help="An encoder of the profile, such as clip, resnet or vit.")]
Out = Annotated[Path, typer.Option("--out", help="What to write; nothing is there before it is complete.")]
Targets = Annotated[Path, typer.Option("--targets", help="Folder that `featspace targets` wrote.")]
Features = Annotated[Path, typer.Option("--features", help="File that `featspace features` wrote.")]
Decoded = Annotated[Path, typer.Option("--decoded", help="Folder that `featspace decode` wrote.")]


@app.callback()
def _globals(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None: ...


@app.command()
def fetch(out: Out, profile: ProfileName = "mini", params: ParamsFile = None) -> None:
    """Download what a profile needs, verify every weight file against its SHA-256, and list them."""
    from featspace.fetch import run_fetch

    loaded, chosen = _profile(params, profile)
    run_fetch(chosen, out, loaded.root, typer.echo)


@app.command()
def targets(out: Out, profile: ProfileName = "mini", params: ParamsFile = None) -> None:
    """Crop the target photographs of a profile and write its list of targets."""
    from featspace.targets import run_targets

    loaded, chosen = _profile(params, profile)
    run_targets(chosen, loaded.root, out)


@app.command()
def features(
    encoder: EncoderName, targets: Targets, out: Out, profile: ProfileName = "mini", params: ParamsFile = None
) -> None:
    """Extract an encoder's features of all targets."""
    from featspace.features import run_features

    run_features(_encoder(*_profile(params, profile), encoder), targets, out)


@app.command()
def decode(
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="An encoder of the profile, a folder, or FAMILY:NAME (timm:resnet50.tv_in1k)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for the images and tables.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Photographs, or .safetensors files of features.", show_default=False),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A caption, for encoders with a text tower.")] = None,
    samples: Annotated[int | None, typer.Option(help="Images a target.")] = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels visited.")] = None,
    recurrences: Annotated[int | None, typer.Option(help="Guided evaluations a noise level.")] = None,
    weight: Annotated[float | None, typer.Option(help="Guidance weight w.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images decoded at once.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the prior: float32 or bfloat16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.", min=0)] = None,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Decode features into images: of photographs, of captions, or from a file.

    Whatever is not given here is as the profile says. Writes for each target and sample the nearest image found, the
    image of the last latent, and two tables.

    Example: featspace decode photo.jpg --encoder clip --out decoded
    """
    from dataclasses import replace

    from featspace.decoding import run_decode

    loaded, chosen = _profile(params, profile)
    given = {
        "samples": samples,
        "steps": steps,
        "recurrences": recurrences,
        "guidance_weight": weight,
        "batch": batch,
        "precision": precision,
        "emphasis_steps": None if steps is None else min(steps, chosen.decode.emphasis_steps),
    }
    settings = chosen.decode.revised(**{key: value for key, value in given.items() if value is not None})
    loaded = loaded if seed is None else replace(loaded, seed=seed)
    table = run_decode(loaded, chosen, encoder, sources or [], text or [], out, settings, weight)
    for row in table.itertuples():
        typer.echo(f"{out / f'{row.id}-{row.sample}.png'}  distance {row.saved_distance:.4g}  cosine {row.cosine:.4f}")


@app.command()
def similarity(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    decoded: Decoded,
    out: Out,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Measure how near the decoded images come to their targets, from the saved files."""
    from featspace.encoders import load_encoder
    from featspace.similarity import run_similarity

    loaded, chosen = _profile(params, profile)
    judge = load_encoder(chosen.judge, loaded.root)
    run_similarity(encoder, _encoder(loaded, chosen, encoder), judge, targets, features, decoded, out)


@app.command()
def references(
    encoder: EncoderName,
    targets: Targets,
    features: Features,
    photographs: Annotated[Path, typer.Option(help="Features of held-out photographs (.safetensors).")],
    out: Out,
    profile: ProfileName = "mini",
    params: ParamsFile = None,
) -> None:
    """Measure what a distance means: to other photographs, JPEG copies and a one-pixel shift of each target."""
    from featspace.similarity import run_references

    loaded, chosen = _profile(params, profile)
    jpeg = chosen.similarity.jpeg
    run_references(encoder, _encoder(loaded, chosen, encoder), targets, features, photographs, out, jpeg)


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

    loaded, chosen = _profile(params, profile)
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


def _profile(params: Path | None, profile: str) -> tuple[Params, Profile]:
    from featspace.params import Params

    loaded = Params.load(params)
    return loaded, loaded.profile(profile)


def _encoder(params: Params, profile: Profile, name: str) -> Encoder:
    from featspace.encoders import load_encoder

    return load_encoder(profile.encoder(name).network, params.root)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a failure is one line on standard error and exit status 1, or 2 for bad usage."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = app(arguments, standalone_mode=False, prog_name="featspace")
        if status == 130:  # typer's for Ctrl-C
            _fail("interrupted; finished images are kept, and the same command goes on from them", 1)
    except BAD_USAGE as error:
        _fail(f"{error.format_message()} See featspace {_command(error)}--help", 2)
    except FeatspaceError as error:
        if "--traceback" in arguments:
            tracebacks.print_exc()
        _fail(str(error), error.exit_status)
    except MemoryError:
        _fail("out of memory: lower `batch`, or free some memory", 1)


def _command(error: Exception) -> str:
    return f"{error.ctx.info_name} " if error.ctx and error.ctx.parent else ""


def _fail(line: str, status: int) -> None:
    typer.echo(f"featspace: error: {line}", err=True)
    raise SystemExit(status) from None

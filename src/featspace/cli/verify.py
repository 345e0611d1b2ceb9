"""Commands for a reviewer: whether what is published holds, and whether a rebuild gave the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import Out, app

Profile = Annotated[str, typer.Option("--profile", help="A profile of dvc.yaml.")]


@app.command()
def verify(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A zip of `featspace export`, or its folder; by default what is in this checkout."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="A profile of dvc.yaml; by default the bundle's, or mini.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV to write of what agrees and what does not.")] = None,
) -> None:
    """Measure every table again from the published images, draw every figure again, and compare.

    Nothing is decoded, and nothing in the checkout or bundle is written; a bundle's sums are held first. Words and
    counts must be equal, numbers b within 1e-4·max(1, |b|), the pixels of figures within 8 of 255 levels. Exits with 1
    if anything does not agree.

    Example: featspace verify bundle.zip
    """
    from featspace.review.verify import run_verify

    if bundle is None:
        run_verify(Path(), profile or "mini", _run, typer.echo, out)
        return

    from featspace.sharing.bundle import open_bundle

    with open_bundle(bundle, typer.echo, profile) as (folder, own):
        run_verify(folder, own, _run, typer.echo, out, "get the bundle again")


@app.command()
def repro(
    profile: Annotated[str, typer.Argument(help="A profile of dvc.yaml.")] = "mini",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Stages at once; by default by cores and free memory.")
    ] = None,
) -> None:
    """Build a profile as `dvc repro` does, stages that do not wait for one another side by side.

    Each stage takes two threads, on which what it computes depends by rounding; not on how many stages run at once.
    """
    from featspace.review.rebuild import run_repro

    run_repro(Path(), profile, jobs, typer.echo)


@app.command()
def reproduced(profile: Profile = "mini") -> None:
    """Say whether a rebuild gave what is committed: the same bytes, or metrics within the spread over seeds.

    Compares figures/PROFILE with the commit; the spread is in spread.json there. Exits with 1 if it did not.
    """
    from featspace.review.reproduced import run_reproduced

    run_reproduced(Path(), profile, typer.echo)


@app.command()
def spread(
    metrics: Annotated[list[Path], typer.Argument(help="metrics.json of builds of several seeds, as SEED.json.")],
    out: Out,
) -> None:
    """Write how much each metric differs from seed to seed, for `featspace reproduced`.

    Example: featspace spread seeds/0.json seeds/1.json seeds/2.json --out figures/mini/spread.json
    """
    from featspace.review.spread import run_spread

    run_spread(metrics, out)


def _run(words: list[str]) -> None:
    if app(words, standalone_mode=False, prog_name="featspace") == 130:  # typer's for Ctrl-C
        raise KeyboardInterrupt

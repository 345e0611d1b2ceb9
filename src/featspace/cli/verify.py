"""Commands for a reviewer: whether what is published holds, and whether a rebuild gave the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import app

Profile = Annotated[str, typer.Option("--profile", help="A profile of dvc.yaml.")]


@app.command()
def verify(
    profile: Profile = "mini",
    out: Annotated[Path | None, typer.Option("--out", help="A CSV to write of what agrees and what does not.")] = None,
) -> None:
    """Measure every table again from the published images, draw every figure again, and compare.

    Nothing is decoded, and nothing in the checkout is written. Words and counts must be equal, numbers b within
    1e-4·max(1, |b|), the pixels of figures within 8 of 255 levels. Exits with 1 if anything does not agree.
    """
    from featspace.review.verify import run_verify

    run_verify(Path(), profile, _run, typer.echo, out)


def _run(words: list[str]) -> None:
    if app(words, standalone_mode=False, prog_name="featspace") == 130:  # typer's for Ctrl-C
        raise KeyboardInterrupt

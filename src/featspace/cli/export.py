"""The command that puts a profile's results into one file, to be published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import app


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="The zip file; nothing is there before it is complete.")],
    profile: Annotated[str, typer.Option("--profile", help="A profile of dvc.yaml, built.")] = "mini",
) -> None:
    """Put a profile's images, tables, figures and page into one zip file, with sums, parameters and RO-Crate metadata.

    What belongs to it is as dvc.yaml says. The same checkout gives the same bytes. `featspace verify` takes the file.

    Example: featspace export --out bundle.zip
    """
    from featspace.sharing.export import run_export

    count = run_export(Path(), profile, out)
    typer.echo(f"{out}  {count} files")

"""The command that builds the page a reviewer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import ParamsFile, ProfileName, app, open_profile


@app.command()
def report(
    out: Annotated[Path | None, typer.Option(help="The page; by default figures/PROFILE/report.html.")] = None,
    profile: ProfileName = "mini",
    data: Annotated[
        Path | None, typer.Option(help="The profile's data; by default data/PROFILE beside the parameter file.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Its figures and tables; by default figures/PROFILE there.")
    ] = None,
    params: ParamsFile = None,
) -> None:
    """Put a profile's figures, tables and images into one HTML page, with what they were made from.

    Example: featspace report --profile mini
    """
    from featspace.report.page import run_report

    loaded, _ = open_profile(params, profile)
    name = str(profile)
    figures, data = figures or loaded.root / "figures" / name, data or loaded.root / "data" / name
    out = out or figures / "report.html"
    run_report(loaded, name, data, figures, out)
    typer.echo(out)

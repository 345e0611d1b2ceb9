"""The command line: each command a thin call of a module's `run_…`."""

from __future__ import annotations

import io
import sys
import time
import traceback as tracebacks
from importlib.metadata import version
from typing import Annotated, Any

import typer

from featspace.cli import bench, experiments, export, featinv, report, stages, tools, verify  # noqa: F401  (they register)
from featspace.cli.options import app
from featspace.report.durations import note_seconds
from featspace.utils.errors import FeatspaceError, escaped, is_out_of_memory, one_line
from featspace.utils.files import is_full
from featspace.utils.signals import Ended, ended_by_signals

EXTRAS = {
    "accelerate": "train",
    "dvc": "pipeline",
    "itables": "pipeline",
    "jinja2": "pipeline",
    "rocrate": "pipeline",
    "snakemake": "pipeline",
}
"""Packages that the core does without, and what installs them."""
BAD_USAGE: Any = typer.BadParameter.__base__
"""The common parent of what typer raises for wrong arguments."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"featspace {version('featspace')}")
        raise typer.Exit()


@app.callback()
def _globals(
    shown: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a failure is one line on standard error and exit status 1, or 2 for bad usage.

    After a signal the status is 128 and its number: 130 for Ctrl-C, 143 for SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding has not, such as a name that is no UTF-8, is shown
            stream.reconfigure(errors="backslashreplace")
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    start = time.monotonic()
    try:
        with ended_by_signals():
            status = app(arguments, standalone_mode=False, prog_name="featspace")
        if status == 130:  # typer's for Ctrl-C
            _fail("interrupted", 130)
        note_seconds(arguments, time.monotonic() - start)
    except Ended as ended:
        _fail(f"ended by {ended.name}", ended.status)
    except BAD_USAGE as error:
        _fail(f"{escaped(error.format_message())} See featspace {_command(error)}--help", 2)
    except FeatspaceError as error:
        if "--traceback" in arguments:
            tracebacks.print_exc()
        _fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        _fail(f"{error.name} is not installed: pip install 'featspace[{extra}]'", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(f"out of memory ({one_line(error)}): free some, or lower `batch`", 1)
    except OSError as error:  # a path too long, a device that is not there, whatever a disk may say
        if "--traceback" in arguments:
            tracebacks.print_exc()
        where = f"{escaped(error.filename)}: " if error.filename else ""
        if is_full(error):
            _fail(f"{where}no space left on the disk: free some, and run the same command again", 1)
        _fail(f"{where}{(error.strerror or one_line(error)).lower()}; check the path, or name another", 1)


def _command(error: Any) -> str:
    return f"{error.ctx.command_path} ".partition(" ")[2] if error.ctx else ""


def _fail(line: str, status: int) -> None:
    typer.echo(f"featspace: error: {line}", err=True)
    raise SystemExit(status) from None

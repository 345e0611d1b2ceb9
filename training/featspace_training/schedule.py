"""Trains the small models one after the other, on whatever is idle: `python -m featspace_training.schedule`.

It can be stopped at any time and goes on from its checkpoints. Nothing that is shipped changes: `dvc repro` in
`training` makes the weights out of the checkpoints.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError
from featspace.utils.signals import Ended, ended_by_signals
from featspace_training.__main__ import read_recipe, train
from featspace_training.checkpoint import steps_taken
from featspace_training.loop import Paused
from featspace_training.recipe import Recipe

ORDER = ("vae", "vit", "clip", "prior")
"""The prior is trained on the autoencoder's latents."""
GPU_SECONDS = 540


def run(
    params: Path = Path("params.yaml"),
    photographs: Path = Path("photographs"),
    checkpoints: Path = Path("checkpoints"),
    threads: Annotated[int | None, typer.Option(min=1, help="By default as many as there are idle cores.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so many; on a GPU by default 540.")] = None,
) -> None:
    """Trains what is not yet trained, and says where each model stands.

    `checkpoints` gets <model>.pt, <model>.csv, and the folder <model> once it is trained.
    """
    if threads is None:
        threads = max(1, (os.cpu_count() or 1) - math.ceil(os.getloadavg()[0]))
    torch.set_num_threads(threads)
    gpu = choose_device().type == "cuda"
    recipes = {name: read_recipe(params, name, gpu) for name in ORDER}
    end = time.monotonic() + (seconds or (GPU_SECONDS if gpu else math.inf))
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name, recipe in recipes.items():
        file = checkpoints / f"{name}.pt"
        done = steps_taken(file, recipe)
        typer.echo(_line(name, recipe, done))
        if done == recipe.steps and (checkpoints / name).is_dir():
            continue
        shutil.rmtree(checkpoints / name, ignore_errors=True)  # of a training that was shorter
        try:
            train(
                name,
                checkpoints / name,
                params=params,
                photographs=photographs,
                checkpoints=checkpoints,
                curves=checkpoints,
                vae=checkpoints / "vae",
                seconds=max(1e-9, end - time.monotonic()),
            )
        except (Paused, KeyboardInterrupt) as stopped:
            typer.echo(f"{_line(name, recipe, steps_taken(file, recipe))}; the same command goes on")
            raise SystemExit(130 if isinstance(stopped, KeyboardInterrupt) else 0) from None
        typer.echo(_line(name, recipe, recipe.steps))


def _line(name: str, recipe: Recipe, done: int) -> str:
    return f"{name}: {done:,} of {recipe.steps:,} steps, {done * recipe.batch:,} images seen"


if __name__ == "__main__":
    try:
        with ended_by_signals():
            typer.run(run)
    except Ended as ended:
        typer.echo(f"featspace: error: ended by {ended.name}; the same command goes on", err=True)
        raise SystemExit(ended.status) from None
    except FeatspaceError as error:
        typer.echo(f"featspace: error: {error}", err=True)
        sys.exit(error.exit_status)

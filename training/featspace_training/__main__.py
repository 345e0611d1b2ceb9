"""`python -m featspace_training NAME …`: trains one of the small models; run by the stages of training/dvc.yaml."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from ruamel.yaml import YAML

from featspace.hub.manifest import MANIFEST
from featspace.utils.devices import choose_device
from featspace.utils.errors import FeatspaceError, UsageError
from featspace.utils.files import refuse_taken, remove_partials
from featspace.utils.locks import alone
from featspace.utils.signals import Ended, ended_by_signals
from featspace_training import classifier, clip, prior
from featspace_training import vae as autoencoder
from featspace_training.checkpoint import before_decay
from featspace_training.loop import Paused
from featspace_training.recipe import Recipe

MODELS = ("vae", "vit", "clip", "prior")


def train(
    name: str,
    out: Annotated[Path, typer.Option()],
    params: Path = Path("params.yaml"),
    photographs: Path = Path("photographs"),
    checkpoints: Path = Path("checkpoints"),
    curves: Path = Path("curves"),
    vae: Path = Path("autoencoder"),
    seconds: float = math.inf,
    within: float = math.inf,
) -> None:
    """Trains NAME (vae, vit, clip or prior) by its recipe and writes its folder to OUT.

    An interrupted run goes on from its checkpoint. The prior needs the trained autoencoder (--vae). With --within it
    takes as many steps as fit into so many seconds, and is done. Raises UsageError if OUT is not empty or another
    process trains the model, and Paused after --seconds, its checkpoint saved.
    """
    if name not in MODELS:
        raise UsageError(f"{name}: no such model; choose one of {', '.join(MODELS)}")
    refuse_taken(out)  # now, and not once it is trained
    limits = {"seconds": seconds, "until": time.monotonic() + within}
    recipe = read_recipe(params, name, choose_device().type == "cuda").model_copy(update=limits)
    checkpoint, curve = checkpoints / f"{name}.pt", curves / f"{name}.csv"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    curve.parent.mkdir(parents=True, exist_ok=True)
    with alone(checkpoint):
        for made in (before_decay(checkpoint), curve, out):
            remove_partials(made)
        if name == "vae":
            autoencoder.run(recipe, photographs, checkpoint, curve, out)
        elif name == "prior":
            prior.run(recipe, photographs, vae, checkpoint, curve, out)
        elif name == "clip":
            clip.run(recipe, photographs, checkpoint, curve, out)
        else:
            classifier.run(recipe, photographs, checkpoint, curve, out)
    # What loads the new weights would hold them against the sums of the old; the last stage writes new ones.
    (out.parent / MANIFEST).unlink(missing_ok=True)


def read_recipe(params: Path, name: str, gpu: bool) -> Recipe:
    """The recipe of a model in the parameter file; with `gpu` its entries under that key take precedence.

    Raises UsageError that names a missing model or a wrong key.
    """
    recipes = YAML(typ="safe").load(params.read_text())
    if name not in recipes:
        raise UsageError(f"{params}: has no recipe of {name}; it has those of {', '.join(recipes)}")
    values = dict(recipes[name])
    longer = values.pop("gpu", {})
    kinds = {"vae": autoencoder.VAERecipe, "clip": clip.CLIPRecipe, "prior": prior.PriorRecipe}
    try:
        return kinds.get(name, classifier.ClassifierRecipe)(**values | (longer if gpu else {}))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{params}: {name}.{key} is {problem['input']}: {problem['msg']}") from None


if __name__ == "__main__":
    try:
        with ended_by_signals():
            typer.run(train)
    except Ended as ended:
        typer.echo(f"featspace: error: ended by {ended.name}; the same command goes on", err=True)
        raise SystemExit(ended.status) from None
    except Paused as paused:
        typer.echo(f"{paused}; the same command goes on", err=True)
        raise SystemExit(os.EX_TEMPFAIL) from None  # a pipeline tool must not take it for done
    except FeatspaceError as error:
        typer.echo(f"featspace: error: {error}", err=True)
        raise SystemExit(error.exit_status) from None

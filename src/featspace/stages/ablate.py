"""The same features decoded with one part of the method changed at a time: what `featspace ablate` does."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from featspace.config.params import Params, Profile
from featspace.hub import resolve
from featspace.hub.sources import ENCODERS, PRIORS
from featspace.stages.ablation import settings_of
from featspace.stages.decode import run_decode
from featspace.utils.errors import UsageError
from featspace.utils.files import atomic_dir, atomic_file, refuse_taken, sha256
from featspace.utils.locks import alone
from featspace.utils.resuming import SETTINGS, unfinished_folder
from featspace.utils.tables import read_json


def _sums(folder: Path) -> list[str]:
    return [sha256(file) for file in sorted(folder.rglob("*.safetensors"))]


def run_ablate(params: Params, profile: Profile, features: Path, out: Path) -> None:
    """Decodes the ablation's targets, from a file of features, with each of its settings, into `out`/<setting>.

    A run that is cut off leaves what is finished in `<out>.unfinished`, and the same run again goes on from there.
    Raises UsageError if that folder is of another run, and what `run_decode` raises.
    """
    out, own, settings = Path(out), profile.own_ablation, settings_of(profile)
    networks = {profile.prior, profile.encoder(own.encoder).network}
    identity = {
        "featspace": version("featspace"),
        "seed": params.seed,
        "settings": [{**asdict(setting), "decode": setting.decode.model_dump()} for setting in settings],
        "features": sha256(features),
        "weights": {name: _sums(resolve(name, params.root, ENCODERS | PRIORS)) for name in sorted(networks)},
    }
    refuse_taken(out)
    with alone(out):
        work = unfinished_folder(out)
        left = work / SETTINGS
        if work.is_dir() and not (left.is_file() and read_json(left) == identity):
            raise UsageError(f"{work}: is of another ablation; repeat that to go on with it, or remove the folder")
        if not work.is_dir():
            with atomic_dir(work) as partial, atomic_file(partial / SETTINGS) as file:
                file.write_text(json.dumps(identity), encoding="utf-8")
        for setting in settings:
            if (work / setting.name).is_dir():
                continue
            network = profile.encoder(own.encoder).model_copy(update={"clip_std": setting.clip_std})
            changed = profile.model_copy(update={"encoders": {**profile.encoders, own.encoder: network}})
            run_decode(
                params, changed, own.encoder, [features], [], work / setting.name, setting.decode, only=own.targets
            )
        if out.is_dir():
            out.rmdir()  # nothing is in it, or this raises
        work.replace(out)
        (out / SETTINGS).unlink()  # only now, so that a folder that is left can always be gone on with

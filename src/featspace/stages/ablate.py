"""The same features decoded with one part of the method changed at a time: what `featspace ablate` does."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from featspace.config.params import Params, Profile
from featspace.hub import resolve
from featspace.hub.sources import ENCODERS, PRIORS
from featspace.stages.ablation import settings_of
from featspace.stages.decode import run_decode
from featspace.utils.files import sha256
from featspace.utils.resuming import resumable_dir, settle
from featspace.utils.tables import DECODED, read_table


def _sums(folder: Path) -> list[str]:
    return [sha256(file) for file in sorted(folder.rglob("*.safetensors"))]


def run_ablate(params: Params, profile: Profile, features: Path, out: Path) -> None:
    """Decodes the ablation's targets, from a file of features, with each of its settings, into `out`/<setting>.

    A run that is cut off leaves what is finished in `<out>.unfinished`, and the same run again goes on from there.
    Raises what `resumable_dir` and `run_decode` raise.
    """
    own, settings = profile.own_ablation, settings_of(profile)
    networks = {profile.prior, profile.encoder(own.encoder).network}
    identity = {
        "featspace": version("featspace"),
        "seed": params.seed,
        "settings": [{**asdict(setting), "decode": setting.decode.model_dump()} for setting in settings],
        "targets": own.targets,
        "features": sha256(features),
        "weights": {name: _sums(resolve(name, params.root, ENCODERS | PRIORS)) for name in sorted(networks)},
    }
    with resumable_dir(out, identity) as work:
        for setting in settings:
            made = work.folder / setting.name
            settle(made)
            if not made.is_dir():
                network = profile.encoder(own.encoder).model_copy(update={"clip_std": setting.clip_std})
                changed = profile.model_copy(update={"encoders": {**profile.encoders, own.encoder: network}})
                run_decode(params, changed, own.encoder, [features], [], made, setting.decode, only=own.targets)
            if not work.is_finished(setting.name):
                work.finish(setting.name, [{}] * len(read_table(made / "decoded.csv", DECODED)))

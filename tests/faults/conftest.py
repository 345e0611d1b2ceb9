"""The commands that take long, on tiny networks, and what they need."""

from __future__ import annotations

import shutil

import pytest
from ruamel.yaml import YAML
from toy_featinv import write_params

from featspace.cli import main

BENCH = {
    "seed": 0,
    "prior": "data/models/prior",
    "batch": 2,
    "device": "cpu",
    "evaluations": 8,
    "tuning": {"photos": 1},
    "compared": {"photos": 2, "samples": 2},
    "fast": {"photos": 2},
    "encoders": {"resnet": {"network": "data/models/resnet", "judge": "data/models/judge", "curve": [4]}},
}


@pytest.fixture(scope="module")
def commands(project, toy_photographs, tmp_path_factory) -> dict[str, list[str]]:
    """By name; OUT stands for a folder that is yet to be made."""
    folder = tmp_path_factory.mktemp("inputs")
    params = write_params(project, toy_photographs, "faults.yaml", checkpoint_seconds=-1.0)
    values = YAML(typ="safe").load(params.read_text())
    values["mini"]["decode"]["device"] = "cpu"
    values["mini"]["layers"] = {"resnet": {"layer1": 4, "pooled": 4}}
    weak = {"weak": {"guidance_weight": 1.0}}
    values["mini"]["ablation"] = {"encoder": "resnet", "targets": ["cat"], "base": {}, "settings": weak}
    YAML(typ="safe").dump(values, params)
    YAML(typ="safe").dump(BENCH | {"root": str(project)}, folder / "bench.yaml")
    given, resnet, targets = ["--params", str(params)], ["--encoder", "resnet"], str(folder / "targets")
    main(["targets", *given, "--out", targets])
    main(["features", *given, *resnet, "--targets", targets, "--out", str(folder / "features.safetensors")])
    main(["featinv", "train", "--controlnet", "maps", *given])
    for layer in ("layer1", "pooled"):
        features = folder / "layers" / f"{layer}.safetensors"
        main(["features", *given, *resnet, "--layer", layer, "--targets", targets, "--out", str(features)])
        shutil.copytree(targets, folder / "layers" / layer)
        for id in ("cat", "cup"):
            (folder / "layers" / layer / f"{id}.png").rename(folder / "layers" / layer / f"{id}-0.png")
        (folder / "layers" / layer / "decoded.csv").write_text("id,sample,evaluations\ncat,0,4\ncup,0,4\n")
    photographs, parts = [f"{targets}/cat.png", f"{targets}/cup.png"], str(folder / "layers")
    maps, out = ["--controlnet", "maps", *given], ["--out", "OUT/out"]
    bench = ["--params", str(folder / "bench.yaml"), *resnet, "--targets", targets, "--only", "mpgd"]
    layers = ["--decoded", parts, "--out", "OUT/layers.csv", "--summary", "OUT/summary.csv"]
    return {
        "decode": ["decode", *photographs, *resnet, *given, "--batch", "2", *out],
        "ablate": ["ablate", str(folder / "features.safetensors"), *given, *out],
        "featinv evaluate": ["featinv", "evaluate", *maps, *out],
        "featinv train": ["featinv", "train", *maps, *out, "--work", "OUT/work"],
        "bench run": ["bench", "run", *bench, *out],
        "layers": ["layers", *given, *resnet, "--targets", targets, *layers],
    }

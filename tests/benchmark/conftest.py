from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from featspace.cli import main

PARAMS = {
    "seed": 0,
    "prior": "data/models/prior",
    "batch": 2,
    "evaluations": 8,
    "tuning": {"photos": 1},
    "compared": {"photos": 2},
    "fast": {"photos": 2, "samples": 2},
    "encoders": {
        "resnet": {"network": "data/models/resnet", "judge": "data/models/judge", "curve": [4]},
        "layer": {"network": "data/models/resnet", "layer": "layer1", "judge": "data/models/judge"},
        "same": {"network": "data/models/judge", "layer": "layer1", "judge": "data/models/judge"},
    },
    "unseen": {"clip": {"network": "data/models/clip", "judge": "data/models/judge"}},
}


@pytest.fixture(scope="module")
def bench(project, tmp_path_factory):
    """Runs the benchmark: a function of the encoder, of changed parameters, and of options."""
    folder = tmp_path_factory.mktemp("bench")
    main(["targets", "--params", str(project / "params.yaml"), "--out", str(folder / "targets")])

    def params(**changes) -> Path:
        file = folder / "params.yaml"
        YAML(typ="safe").dump(PARAMS | {"root": str(project)} | changes, file)
        return file

    def run_it(encoder: str, out: Path, *options: str, **changes) -> pd.DataFrame:
        file = params(**changes)
        given = ["--params", str(file), "--encoder", encoder, "--targets", str(folder / "targets"), "--out", str(out)]
        main(["bench", "run", *given, *options])
        return pd.read_csv(out / "images.csv", keep_default_na=False, na_values=[""])

    run_it.targets, run_it.params = folder / "targets", params
    return run_it


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    """The folder and the table of a whole run."""
    out = tmp_path_factory.mktemp("whole") / "resnet"
    return out, bench("resnet", out)

"""A small pipeline with all that the project's has: folders, parameters, matrices, uncached outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

PROJECT = Path(__file__).parents[1]

PARAMS = """
seed: 0
steps:
  clip: 2
  vit: 3
captions: {tabby: "a {photo} of a tabby"}
"""

STAGES = """
stages:
  targets:
    cmd: mkdir -p data/targets && echo a > data/targets/a.png && echo id > data/targets/targets.csv
    params: [seed, captions]
    outs: [data/targets/]
  decode:
    foreach: [clip, vit]
    do:
      cmd: >-
        mkdir -p data/decoded/${item} &&
        cat data/targets/a.png params.yaml models/*/w | awk '/${item}/ {print}' > data/decoded/${item}/a.png
      deps: [models, data/targets/a.png]
      params: [seed, "steps.${item}"]
      outs: ["data/decoded/${item}/"]
      meta: {threads: 2, mem_mb: 500, gpu: 1, runtime: 5}
  table:
    cmd:
      - mkdir -p figures && echo counted $((40 + 2)) >&2
      - cat data/decoded/*/a.png > figures/table.csv
      - echo 1 > figures/metrics.json
    deps: [data/decoded]
    meta: {gpu: 0}
    outs: [figures/table.csv: {cache: false}]
    metrics: [figures/metrics.json: {cache: false}]
  figure:
    matrix: {encoder: [clip, vit]}
    cmd: mkdir -p figures && cat data/decoded/${item.encoder}/a.png > figures/${item.encoder}.png
    deps: ["data/decoded/${item.encoder}"]
    outs: ["figures/${item.encoder}.png": {cache: false}]
  mini:
    cmd: cat figures/table.csv figures/*.png > figures/ALL
    deps: [figures/table.csv, figures/clip.png, figures/vit.png]
    outs: [figures/ALL: {cache: false}]
"""


def toy(folder: Path) -> Path:
    """Writes it."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text(STAGES)
    for name in ("clip", "vit"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "w").write_text(name)
    for name in ("Snakefile", ".dvcignore"):
        shutil.copy(PROJECT / name, folder)
    return folder

"""The toy project as it is published: with a pipeline, built, and as a commit of a git repository."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import chdir
from pathlib import Path

from dvc.repo import Repo

from featspace.cli import main
from featspace.review.stages import read_stages

PROJECT = Path(__file__).parents[1]
PAGE = Path("figures/mini/report.html")
STAGES = """
stages:
  fetch:
    cmd: featspace fetch --out data/mini/weights.json
    deps: [data/models, requirements.lock]
    outs: [data/mini/weights.json]
  targets: {cmd: featspace targets --out data/mini/targets, outs: [data/mini/targets/]}
  features:
    foreach: &encoders [clip, resnet]
    do:
      cmd: >-
        featspace features --encoder ${item} --targets data/mini/targets --out data/mini/features/${item}.safetensors
      deps: [data/mini/targets, data/mini/weights.json]
      outs: ["data/mini/features/${item}.safetensors"]
  decode:
    foreach: *encoders
    do:
      desc: Decode the features of one encoder into images
      cmd: featspace decode data/mini/features/${item}.safetensors --encoder ${item} --out data/mini/decoded/${item}
      deps: ["data/mini/features/${item}.safetensors", src/featspace/priors]
      outs: ["data/mini/decoded/${item}/"]
  measure:
    foreach: *encoders
    do:
      cmd:
        - >-
          featspace references --encoder ${item} --targets data/mini/targets
          --features data/mini/features/${item}.safetensors --out figures/mini/references-${item}.csv
        - >-
          featspace similarity --encoder ${item} --targets data/mini/targets
          --features data/mini/features/${item}.safetensors --decoded data/mini/decoded/${item}
          --references figures/mini/references-${item}.csv --out figures/mini/similarity-${item}.csv
      deps: [data/mini/targets, "data/mini/features/${item}.safetensors", "data/mini/decoded/${item}"]
      outs:
        - figures/mini/references-${item}.csv: {cache: false}
        - figures/mini/similarity-${item}.csv: {cache: false}
  metrics:
    cmd: >-
      featspace metrics --out figures/mini/metrics.json
      --similarity figures/mini/similarity-clip.csv --references figures/mini/references-clip.csv
      --similarity figures/mini/similarity-resnet.csv --references figures/mini/references-resnet.csv
    deps: [figures/mini/similarity-clip.csv, figures/mini/similarity-resnet.csv]
    metrics: [figures/mini/metrics.json: {cache: false}]
  figure:
    cmd: >-
      featspace figures --only 3 --data data/mini --tables figures/mini --out figures/mini
    deps: [figures/mini/similarity-clip.csv, data/mini/decoded/clip]
    outs: [figures/mini/figure3.png: {cache: false}, figures/mini/figure3.pdf: {cache: false}]
  mini:
    cmd: >-
      featspace checksums data/mini figures/mini --without figures/mini/report.html --out figures/mini/SHA256SUMS
    deps: [data/mini/decoded, figures/mini/metrics.json, figures/mini/figure3.png]
    outs: [figures/mini/SHA256SUMS: {cache: false}]
"""


def build(project: Path, root: Path) -> Path:
    """Copies the toy project to `root`, with its pipeline, and builds it."""
    shutil.copytree(project, root)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "src/featspace/priors").mkdir(parents=True)
    (root / "src/featspace/priors/code.py").write_text("")
    for name in ("CITATION.cff", "LICENSE", "requirements.lock"):
        shutil.copy(PROJECT / name, root)
    with chdir(root):
        for stage in read_stages(root, "mini"):
            for _, *words in stage.commands:
                main(words)
    return root


def publish(root: Path) -> None:
    """Commits what was built, to DVC's cache and to git, and makes the page of it."""
    with chdir(root):
        git("init", "-q", "-b", "main")
        Repo.init().close()
        with Repo() as repo:
            repo.commit(force=True)
        Path("figures/mini/.gitignore").write_text("/report.html\n")
        git("add", "-A")
        git("commit", "-qm", "Build")
        main(["report"])


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

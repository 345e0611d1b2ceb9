"""The environments that can be built, by make, Docker and conda, are one: the same Python, and the lock's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
UBUNTU = {"22.04": "3.10", "24.04": "3.12", "26.04": "3.14"}
"""Python of each."""
LOCKED = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE))
MAKEFILE = (PROJECT / "Makefile").read_text()


class Step(NamedTuple):
    instruction: str
    words: str


def dockerfile() -> list[Step]:
    text = re.sub(r"^#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [Step(*line.split(None, 1)) for line in text.splitlines() if line.strip()]


def of(instruction: str) -> list[str]:
    return [step.words for step in dockerfile() if step.instruction == instruction]


def test_all_have_the_same_python() -> None:
    (base,) = of("FROM")
    docker = UBUNTU[re.search(r"ubuntu([\d.]+)", base)[1]]
    conda = YAML(typ="safe").load(PROJECT / "environment.yaml")["dependencies"]
    (python,) = [entry for entry in conda if str(entry).startswith("python=")]
    assert python == f"python={docker}"
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    made = SpecifierSet(re.search(r"^PYTHON := (.+)$", MAKEFILE, re.MULTILINE)[1])
    listed = {line.rpartition(" ")[2] for line in metadata["classifiers"] if "Python :: 3." in line}
    assert docker in made and docker in SpecifierSet(metadata["requires-python"])
    assert listed == {f"3.{minor}" for minor in range(8, 20) if made.contains(f"3.{minor}")}


def test_all_take_their_packages_from_the_lock_alone() -> None:
    """The commands that install anything are make's; conda's are pip's, of the same file, whose hashes it checks."""
    conda = YAML(typ="safe").load(PROJECT / "environment.yaml")["dependencies"]
    assert [entry for entry in conda if isinstance(entry, dict)] == [{"pip": ["-r requirements.lock"]}]
    assert [entry for entry in conda if isinstance(entry, str)] == [conda[0], "pip"]
    runs = " ".join(of("RUN"))
    assert "make env" in runs and not re.search(r"\b(uv|pip|conda|curl|wget)\b", runs)
    lock = (PROJECT / "requirements.lock").read_text()
    assert lock.count("--hash=sha256:") >= len(LOCKED) > 100
    assert re.findall(r"uv==[\d.]+", MAKEFILE) and "--require-hashes" in MAKEFILE


def test_the_lock_has_what_the_project_needs() -> None:
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    locked = {canonicalize_name(name): version for name, version in LOCKED.items()}
    needed = metadata["dependencies"] + sum(metadata["optional-dependencies"].values(), [])
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_image_has_the_cuda_of_the_lock() -> None:
    (base,) = of("FROM")
    assert re.match(r"nvidia/cuda:(\d+\.\d+)\.", base)[1] == ".".join(LOCKED["cuda-toolkit"].split(".")[:2])


def test_nobody_is_root_in_the_image() -> None:
    steps = dockerfile()
    (user,) = [index for index, step in enumerate(steps) if step.instruction == "USER"]
    assert int(steps[user].words) > 0
    assert all("--chown=featspace:0 " in step.words for step in steps if step.instruction == "COPY")
    assert [step.instruction for step in steps[:user]] == ["FROM", "RUN"]  # of packages of the system


def test_the_image_leaves_out_what_git_does() -> None:
    left_out = (PROJECT / ".dockerignore").read_text().splitlines()
    for pattern in (PROJECT / ".gitignore").read_text().split():
        assert (pattern.strip("/") if "/" in pattern[:-1] else f"**/{pattern.strip('/')}") in left_out


def test_the_steps_of_the_image_prepare_a_build(tmp_path: Path) -> None:
    """Run as they stand, but for the environment, which is this one: `make repro` has nothing to install then.

    What is copied last is newer than the environment, as it can be where Docker took that from its cache.
    """
    image, tools, here = tmp_path / "image", tmp_path / "tools", Path(sys.executable).parent
    image.mkdir()
    tools.mkdir()
    (tools / "uv").write_text(f'#!/bin/sh\n[ "$1" != venv ] || mkdir -p .venv && ln -sfn {here} .venv/bin\necho uv\n')
    (tools / "uv").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}

    def run(command: str) -> str:
        done = subprocess.run(["sh", "-c", command], cwd=image, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    steps = dockerfile()
    for step in steps[[step.instruction for step in steps].index("USER") :]:
        if step.instruction == "RUN":
            run(step.words)
        if step.instruction == "COPY":
            *sources, target = [word for word in step.words.split() if not word.startswith("--")]
            sources = ["requirements.lock", "pyproject.toml", "dvc.lock", "dvc.yaml"] if sources == ["."] else sources
            for source in sources:
                place = image / target / source if target in (".", "./") else image / target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / source, place)
    would = run("make -n repro")
    assert "featspace repro mini" in would and "uv pip install" not in would
    assert (image / ".dvc/config.local").read_text().split() == ["[core]", "no_scm", "=", "true"]
    assert of("CMD") == ['["make", "repro"]']

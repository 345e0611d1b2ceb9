# The stages of dvc.yaml as Snakemake rules of the same names, to run them in parallel or on a cluster:
# `snakemake -c 2 mini` builds what `dvc repro mini` builds, `snakemake -c 2 paper` the other profile.
# After a build, `dvc commit -f` records it in DVC; after `dvc repro` or `dvc checkout`, `snakemake --touch -F mini`
# does here. What a rule printed is in .snakemake/logs too. `snakemake -c 2 paper --config shards=8` decodes in eight
# parts, each a rule.
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from snakemake.exceptions import WorkflowError

# The commands of the stages lie beside the Python that runs this, in a folder that need not be on PATH.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
repo = Repo(".")
root = Path(repo.root_dir)
stages = [stage for stage in repo.index.stages if Path(stage.path) == root / "dvc.yaml"]
made = [Path(out.fs_path) for stage in stages for out in stage.outs]
shards = str(config.get("shards", 1))
if not re.fullmatch("[1-9][0-9]*", shards):
    raise WorkflowError(f"--config shards={shards}: not a whole number from 1; name one, such as shards=8")
shards = int(shards)


@cache
def parameters(path):
    """All that the stages name in a file of parameters, read at once, as that takes a while."""
    names = {name for stage in stages for param in stage.params if param.fs_path == path for name in param.params}
    return ParamsDependency(None, path, names, repo).read_params()


@cache
def inputs(path):
    """The stages' outputs that overlap a dependency; where there are none, its own file or files."""
    path = Path(path)
    overlapping = [out for out in made if out.is_relative_to(path) or path.is_relative_to(out)]
    files = repo.dvcignore.find(repo.fs, str(path)) if path.is_dir() else [path]
    return [Path(file).relative_to(root) for file in overlapping or sorted(files)]


def output(out):
    """A folder's path ends in a slash in dvc.yaml."""
    path = Path(out.fs_path).relative_to(root)
    return directory(path) if out.def_path.endswith("/") else path


def rules_of(stage):
    """Name, commands, further inputs, outputs and resources of the rules that make a stage's outputs.

    A stage whose last command decodes several targets has a rule for what comes before that, one for each shard, which
    decodes into a folder of its own, and one that merges these and has the stage's name.
    """
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    outputs, meta = [output(out) for out in stage.outs], stage.meta or {}
    words = shlex.split(commands[-1])
    if shards == 1 or words[:2] != ["featspace", "decode"] or "--target" in words:
        yield stage.name, commands, [], outputs, meta
        return
    decoded = words[words.index("--out") + 1]
    files = [out for out in outputs if str(out) != decoded]
    if files:
        yield f"{stage.name}-before", commands[:-1], [], files, meta
    parts = {number: f".snakemake/shards/{stage.name}-{number}-of-{shards}" for number in range(1, shards + 1)}
    for number, part in parts.items():
        command = f"{commands[-1]} --shard {number}/{shards} --out {part}"  # of two --out the last counts
        yield f"{stage.name}-{number}", [command], files, [temp(directory(part))], meta
    merge = shlex.join(["featspace", "merge", *parts.values(), "--out", decoded])
    yield stage.name, [merge], list(parts.values()), [directory(decoded)], {}


rule all:
    input: [path.relative_to(root) for path in made],


for stage in stages:
    for name, commands, further, outputs, meta in rules_of(stage):
        meta = {"threads": 1, **meta}
        rule:
            name: name
            input: further, [path for dep in stage.deps if dep not in stage.params for path in inputs(dep.fs_path)],
            output: outputs,
            params:
                cmd=lambda wildcards, commands=commands: "\n".join(commands),
                parameters=[{name: parameters(param.fs_path)[name] for name in param.params} for param in stage.params],
            threads: meta.pop("threads")
            resources: **{name: amount for name, amount in meta.items() if amount},  # to some gpu=0 is one
            log: f".snakemake/logs/{name}.log",
            shell: "({params.cmd}) 2>&1 | tee {log}"

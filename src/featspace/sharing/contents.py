"""What a bundle holds: what the stages of a profile write, and what they read but the code."""

from __future__ import annotations

from pathlib import Path

from featspace.hub.manifest import restore
from featspace.review.stages import read_stages
from featspace.utils.errors import FeatspaceError, UsageError

FILES = {
    "dvc.yaml": "The workflow: every stage, with its command, dependencies, parameters and outputs.",
    "dvc.lock": "The sums of what each stage read and wrote.",
    "params.yaml": "All that can be chosen: networks, targets, settings, seeds.",
    "CITATION.cff": "How to cite.",
    "LICENSE": "The license of the code.",
}
"""What is taken beside the stages' files, and what it is."""
READ = {
    "requirements.lock": "The environment: each package with its version and hashes.",
    "weights.lock": "To what published networks are pinned, with the sum of each file.",
    "models": "The shipped weights; their model card is in the folder card, and says what they may be used for.",
    "spread.json": "By how much each metric differs from seed to seed.",
}
"""What stages read, by its name, and what it is."""


def page(profile: str) -> Path:
    return Path("figures", profile, "report.html")


def read_contents(root: Path, profile: str) -> dict[Path, str]:
    """The files and folders of a profile's bundle, relative to the checkout, and what each is, where that is known.

    They are as dvc.yaml says: the outputs of every stage that writes in data/<profile> or figures/<profile>, and its
    dependencies, but for the code; and the page and the files that tell where all of it comes from. Raises UsageError
    where there is no pipeline or profile, FeatspaceError if any of it is not there.
    """
    if not (root / "dvc.yaml").is_file():
        raise UsageError(f"{root / 'dvc.yaml'}: not there; run this in a checkout of featspace")
    stages = read_stages(root, profile)
    if not stages:
        raise UsageError(f"{profile}: no stage of dvc.yaml writes data/{profile}; name another profile")
    outs = {out: stage.says for stage in stages for out in stage.outs}
    deps = {dep for stage in stages for dep in stage.deps if dep.parts[0] != "src" and not _overlaps(dep, outs)}
    deps = {dep for dep in deps if deps.isdisjoint(dep.parents)}
    found = outs | {dep: READ.get(dep.name, "") for dep in deps}
    absent = sorted(path for path in found if not (root / path).exists())
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        todo = f"not there; build it with `dvc repro {profile}`, or fetch it with `dvc pull --with-deps {profile}`"
        raise FeatspaceError(f"{root / absent[0]}{more}: {todo}")
    if not (root / page(profile)).is_file():
        raise FeatspaceError(f"{root / page(profile)}: not there; make it with `featspace report --profile {profile}`")
    if lost := [name for name in FILES if not (root / name).is_file()]:
        raise FeatspaceError(f"{root / lost[0]}: not there; {restore(Path(lost[0]))}")
    found |= {Path(name): says for name, says in FILES.items()}
    return found | {page(profile): "Every figure, table and image on one page, with what they come from."}


def list_files(root: Path, contents: dict[Path, str]) -> list[Path]:
    """All files of a bundle, relative to `root`, sorted; hidden ones in folders are left out."""
    files: set[Path] = set()
    for path in contents:
        within = [path] if (root / path).is_file() else [x.relative_to(root) for x in (root / path).rglob("*")]
        files |= {file for file in within if (root / file).is_file() and not file.name.startswith(".")}
    return sorted(files)


def _overlaps(dep: Path, outs: dict[Path, str]) -> bool:
    """Whether it is an output, or lies in one, or is a folder of outputs, which may hold other files, too."""
    return any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in outs)

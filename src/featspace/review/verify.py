"""What is published, measured again from its images: what `featspace verify` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from os.path import normpath
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from featspace.hub.manifest import MANIFEST
from featspace.review.compare import TOLERANCE, Comparison, Difference, compare
from featspace.review.stages import Stage, build_command, copy_of, link, read_stages
from featspace.utils.checksums import list_checksums, parse_checksum
from featspace.utils.errors import FeatspaceError, UsageError, one_line
from featspace.utils.tables import write_table

SHOWN = 5
"""Differences of a file that are printed; the table has them all."""
AGREES, DIFFERS, MISSING, FAILED, TAKEN = "agrees", "differs", "missing", "not measured", "taken as published"


class Verdict(NamedTuple):
    """On one output; in `differences` whatever it says against it."""

    path: Path  # relative to the checkout
    says: str  # AGREES, …
    differences: list[Difference] = []
    deviation: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.says in (AGREES, TAKEN)


def run_verify(
    root: Path,
    profile: str,
    run: Callable[[list[str]], None],
    report: Callable[[str], None] = print,
    out: Path | None = None,
    todo: str | None = None,
) -> None:
    """Runs every stage of a profile that decodes nothing again, from published images, and compares what it writes.

    That is the rule: a stage that depends on the room `priors` makes images, or weights, which are taken as published;
    any other is run again, by its own commands, in a folder where what it writes is kept apart (`stages.copy_of`).
    What agrees is taken as published by the stages after it, so that rounding does not add up. A list SHA256SUMS is
    compared with what is there. Nothing in `root` is written.

    run: runs a command of featspace, given as words. report: is given each line. out: a CSV of the same.
    todo: about what is not there; by default to build or fetch it.
    Raises UsageError where there is no pipeline or profile, FeatspaceError if images are not there, or, at the end, if
    anything does not agree.
    """
    if not (root / "dvc.yaml").is_file():
        elsewhere = "run this in a checkout of featspace, or name a bundle"
        raise UsageError(f"{root / 'dvc.yaml'}: not there; {todo or elsewhere}")
    stages = read_stages(root, profile)
    if not stages:
        raise UsageError(f"{profile}: no stage of dvc.yaml writes data/{profile}; name another profile")
    build = f"build it with `{build_command(profile)}`, or fetch it with `dvc pull --with-deps {profile}`"
    _refuse_absent(root, profile, stages, f"not there; {todo or build}")
    verdicts = []
    for verdict in _verdicts(root, profile, stages, run):
        verdicts.append(verdict)
        if verdict.says != TAKEN or verdict.path.parts[0] != "data":
            for line in _lines(verdict):
                report(line)
    if out is not None:
        write_table(_table(verdicts), out)
    bad = [verdict for verdict in verdicts if not verdict.is_good]
    count = sum(verdict.says != TAKEN for verdict in verdicts)
    if bad:
        names = ", ".join(str(verdict.path) for verdict in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
        agree = "does not agree" if len(bad) == 1 else "do not agree"
        raise FeatspaceError(f"{len(bad)} of {count} outputs of {profile} {agree}: {names}")
    largest = max(verdict.deviation for verdict in verdicts)
    report(
        f"All {count} outputs of {profile} that need no decoding agree with the {len(verdicts) - count} that do, "
        f"taken as published; the largest deviation is {largest:.1g}, of {TOLERANCE:g} that are allowed."
    )


def _refuse_absent(root: Path, profile: str, stages: list[Stage], there: str) -> None:
    if not any((root / out).exists() for stage in stages if not stage.decodes for out in stage.outs):
        raise FeatspaceError(f"{root / 'figures' / profile}: {there}")
    absent = [out for stage in stages if stage.decodes for out in stage.outs if not (root / out).exists()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FeatspaceError(f"{root / absent[0]}{more}: {there}")


def _verdicts(root: Path, profile: str, stages: list[Stage], run: Callable[[list[str]], None]) -> Iterator[Verdict]:
    taken = [out for stage in stages if stage.decodes for out in stage.outs]
    yield from (Verdict(out, TAKEN) for out in taken)
    with copy_of(root, profile, taken) as copy:
        for stage in stages:
            if stage.decodes:
                continue
            lists = [out for out in stage.outs if out.name == MANIFEST]
            yield from (_check_list(root, profile, out) for out in lists)
            if lists:
                continue
            failure = _run_again(stage, copy, run)
            for verdict in _compare_outs(stage.outs, root, copy, failure):
                if verdict.is_good or failure:
                    link((root / verdict.path).resolve(), copy / verdict.path)
                yield verdict


def _run_again(stage: Stage, copy: Path, run: Callable[[list[str]], None]) -> str:
    """Why it could not; empty if it could."""
    with chdir(copy), redirect_stdout(StringIO()):
        for program, *words in stage.commands:
            if program != "featspace":
                return f"{stage.name} runs {program}, which is no command of featspace"
            if outside := [word for word in words if _leads_outside(word)]:
                return f"{stage.name} names {outside[0]}, which is not in the folder"
            try:
                run(words)
            except (FeatspaceError, OSError) as error:
                return one_line(error, 400)
    return ""


def _leads_outside(word: str) -> bool:
    """Whether it is such a path, or an option with one."""
    return any(Path(part).is_absolute() or ".." in Path(part).parts for part in (word, word.partition("=")[2]))


def _compare_outs(outs: list[Path], root: Path, copy: Path, failure: str) -> Iterator[Verdict]:
    compared: dict[Path, Comparison] = {}
    for path in sorted(outs, key=lambda path: path.suffix == ".pdf"):  # after the picture of the same name
        if failure:
            yield Verdict(path, FAILED, [Difference(failure, "", "")])
        elif not (root / path).exists():
            yield Verdict(path, MISSING)
        else:
            found = compared[path] = compare(root / path, copy / path)
            # The bytes of a PDF depend on what drew it, and say nothing that the PNG does not show.
            same_picture = path.suffix == ".pdf" and not compared.get(path.with_suffix(".png"), found).differences
            says = DIFFERS if found.differences and not same_picture else AGREES
            yield Verdict(path, says, found.differences, found.deviation)


PAGE = "report.html"
"""Of a profile's figures the one that is in no list, as it names commit and machine."""


def _check_list(root: Path, profile: str, path: Path) -> Verdict:
    """A list of checksums against the files of the profile."""
    if not (root / path).is_file():
        return Verdict(path, MISSING)
    listed, found = {}, []
    for number, line in enumerate((root / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            name, digest = parse_checksum(line)
        except ValueError as error:
            found.append(Difference(f"line {number}: {error}", "", ""))
        else:
            listed[name] = digest
    there = list_checksums(
        [root / top / profile for top in ("data", "figures")], root / path, [root / path.parent / PAGE]
    )
    for name in sorted(listed.keys() | there.keys()):
        if listed.get(name) != there.get(name):
            shown = [files[name][:8] if name in files else "nothing" for files in (listed, there)]
            why = "not listed" if name not in listed else "missing" if name not in there else "altered"
            found.append(Difference(f"{normpath(path.parent / name)}: {why}", *shown))
    return Verdict(path, DIFFERS if found else AGREES, found)


def _lines(verdict: Verdict) -> Iterator[str]:
    deviation = f"{verdict.deviation:.1e}" if verdict.deviation else ""
    yield f"{verdict.says:18}  {deviation:7}  {verdict.path}".rstrip()
    for place, published, measured in verdict.differences[:SHOWN]:
        values = f": published {published}, measured {measured}" if published or measured else ""
        yield f"    {place}{values}"
    if (more := len(verdict.differences) - SHOWN) > 0:
        yield f"    and {more} more"


def _table(verdicts: list[Verdict]) -> pd.DataFrame:
    rows = []
    for path, says, differences, deviation in verdicts:
        for place, published, measured in differences or [Difference("", "", "")]:
            rows.append((path, says, deviation, place, published, measured))
    return pd.DataFrame(rows, columns=["file", "says", "deviation", "where", "published", "measured"])

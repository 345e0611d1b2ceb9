"""What a bundle says of itself, for machines: RO-Crate metadata (https://w3id.org/ro/crate/1.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rocrate.model import ComputerLanguage, ContextEntity
from rocrate.rocrate import ROCrate

from featspace.config.reading import read_yaml
from featspace.report.captions import of_figure, of_table
from featspace.report.provenance import PACKAGES, Commit
from featspace.utils.errors import FeatspaceError
from featspace.utils.texts import parse_json

FILE = "ro-crate-metadata.json"
PROGRAM = "#featspace"
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".yaml": "application/yaml",
}
"""By suffix; what has another is plain text."""
LICENSES = {
    "models": ("#research-only", "For research only", "They were trained on Tiny ImageNet, which is research data."),
    "targets": ("#photographs", "Of each photograph its own", "That of the source that targets.csv names for it."),
}
"""Of folders in data, by their names, that are not under the license of the code."""


def describe(root: Path, profile: str, contents: dict[Path, str], commit: Commit, version: str) -> str:
    """The metadata of a profile's bundle, as JSON-LD, by what its files say: two calls give the same.

    version: of featspace. Raises UsageError and FeatspaceError if CITATION.cff or requirements.lock cannot be read.
    """
    cited = read_yaml(root / "CITATION.cff")
    crate = ROCrate(version="1.1")
    crate.root_dataset.datePublished = commit.date
    crate.name = f"{cited['title']}: the profile {profile}, built"
    crate.description = (
        f"{' '.join(cited['abstract'].split())} Measured again from its images by: featspace verify, with this bundle. "
        f"The license is the code's; data/models, data/{profile}/targets and what shows them have licenses of their own"
    )
    crate.root_dataset["version"] = commit.id
    crate.license = crate.add(
        _entity(crate, f"https://spdx.org/licenses/{cited['license']}", "CreativeWork", name=cited["license"])
    )
    crate.root_dataset["author"] = _one([_author(crate, author) for author in cited["authors"]])
    papers = [cited["preferred-citation"], *cited.get("references", [])]
    crate.root_dataset["citation"] = _one([_paper(crate, paper) for paper in papers])
    packages = [_package(crate, name, pinned) for name, pinned in _pinned(root / "requirements.lock")]
    program = _entity(crate, PROGRAM, "SoftwareApplication", name="featspace", version=version)
    program["softwareRequirements"] = packages
    crate.root_dataset["mentions"] = crate.add(program)
    for path, says in sorted(contents.items()):
        _add(crate, root, path, says)
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_version(path: Path) -> str | None:
    """Of the featspace that wrote a bundle's metadata; None if that does not say it."""
    try:
        entities = parse_json(path.read_text(encoding="utf-8"))["@graph"]
        return next(str(entity["version"]) for entity in entities if entity["@id"] == PROGRAM)
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None


def _add(crate: ROCrate, root: Path, path: Path, says: str) -> None:
    """A file or folder, with what is known of it."""
    properties = {"name": path.as_posix(), "description": says}
    if path.parts[0] == "figures" and path.suffix in (".png", ".pdf"):
        title, caption, _ = of_figure(path.stem)
        properties = {"name": title, "description": caption or says}
    elif path.parts[0] == "figures" and path.suffix == ".csv":
        properties["description"] = of_table(path.stem) or says
    properties = {key: value for key, value in properties.items() if value}
    if (root / path).is_dir():
        folder = crate.add_dataset(dest_path=path, properties=properties)
        if path.parts[0] == "data" and path.name in LICENSES:
            id, name, why = LICENSES[path.name]
            folder["license"] = crate.add(_entity(crate, id, "CreativeWork", name=name, description=why))
        return
    properties["encodingFormat"] = FORMATS.get(path.suffix, "text/plain")
    properties["contentSize"] = str((root / path).stat().st_size)
    if path == Path("dvc.yaml"):
        dvc = ComputerLanguage(crate, "#dvc", {"name": "DVC", "url": {"@id": "https://dvc.org"}})
        crate.add_workflow(dest_path=path, properties=properties, main=True, lang=crate.add(dvc))
    else:
        crate.add_file(dest_path=path, properties=properties)


def _one(values: list[Any]) -> Any:
    """A list of one is written without brackets."""
    return values[0] if len(values) == 1 else values


def _entity(crate: ROCrate, id: str, kind: str, **properties: Any) -> ContextEntity:
    return ContextEntity(crate, id, {"@type": kind, **properties})


def _author(crate: ROCrate, author: dict[str, str]) -> ContextEntity:
    """A person or an organization, of CFF."""
    name = author.get("name") or " ".join(author[key] for key in ("given-names", "family-names") if key in author)
    kind = "Organization" if "name" in author else "Person"
    return crate.add(_entity(crate, f"#{re.sub(r'[^a-z]+', '-', name.lower())}", kind, name=name))


def _paper(crate: ROCrate, paper: dict[str, Any]) -> ContextEntity:
    """A reference of CFF."""
    authors = _one([_author(crate, author) for author in paper["authors"]])
    named = _one([identifier["value"] for identifier in paper.get("identifiers", [])])
    properties = {"name": paper["title"], "author": authors, "datePublished": str(paper["year"])}
    return crate.add(_entity(crate, paper["url"], "ScholarlyArticle", **properties, identifier=named))


def _package(crate: ROCrate, name: str, pinned: str) -> ContextEntity:
    return crate.add(_entity(crate, f"#package-{name}", "SoftwareApplication", name=name, version=pinned))


def _pinned(lock: Path, names: Iterable[str] = PACKAGES) -> Iterator[tuple[str, str]]:
    """The versions that a lock has of packages."""
    try:
        versions = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    except OSError as error:
        raise FeatspaceError(f"{lock}: cannot be read ({(error.strerror or '').lower()}); restore it") from error
    for name in names:
        if name.replace("_", "-") in versions:
            yield name, versions[name.replace("_", "-")]

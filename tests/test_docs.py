"""The pages that readers are sent to: each link leads somewhere, and commands say what they are to."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "training/README.md", ROOT / "data/models/card/README.md", *ROOT.glob("docs/*.md")]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_sends_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT)) in text, page


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_code_that_is_named_is_there(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|bench|examples)/[\w/.-]+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


def test_snakemake_takes_what_is_to_be_built_for_that() -> None:
    """A target after an option of several values is taken for one; options of plugins may be such, too."""
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "Snakefile", *ROOT.glob("profiles/*/*.yaml")]]
    shown = re.compile(r"`(snakemake [^`]*)`|^(?:    (?:\S+=\S+ )?|# )(snakemake [^#;\n]*)", re.MULTILINE)
    commands = [span or line for text in texts for span, line in shown.findall(text)]
    assert len(commands) > 10
    for command in commands:
        words = shlex.split(command)[1:]
        wanted = [word for word in words if re.fullmatch(r"mini|paper|[a-z]+@[\w-]+", word)]
        known, unknown = get_argument_parser().parse_known_args(words)
        assert set(wanted) <= set(known.targets), command
        assert not (wanted and unknown) or words.index(unknown[0]) > words.index(wanted[-1]), command

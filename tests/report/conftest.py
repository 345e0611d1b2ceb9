"""A toy profile, and its page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toy_report

from featspace.cli import main


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("report")
    toy_report.write_profile(root)
    return root


@pytest.fixture
def copied(profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """May be changed; the working directory."""
    monkeypatch.chdir(shutil.copytree(profile, tmp_path / "copied"))
    return Path()


@pytest.fixture(scope="module")
def built(profile: Path) -> Path:
    out = profile / "figures/mini/report.html"
    main(["report", "--params", str(profile / "params.yaml"), "--out", str(out)])
    return out

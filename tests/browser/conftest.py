"""A browser, and the pages of a toy profile and of the profile mini."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_report
from opening import opened
from playwright.sync_api import Browser, Page, sync_playwright

from featspace.cli import main
from featspace.config.params import Params
from featspace.report.page import run_report

PROJECT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    toy_report.write_profile(root)
    main(["report", "--params", str(root / "params.yaml"), "--out", str(root / "report.html")])
    return root / "report.html"


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 1,000 targets and three encoders."""
    root = tmp_path_factory.mktemp("many")
    toy_report.write_many(root, 1000)
    main(["report", "--params", str(root / "params.yaml"), "--out", str(root / "report.html")])
    return root / "report.html"


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the profile mini, where it is built."""
    out = tmp_path_factory.mktemp("real") / "report.html"
    data, figures = PROJECT / "data/mini", PROJECT / "figures/mini"
    if not (data / "decoded/clip/trace.parquet").is_file() or not (figures / "metrics.json").is_file():
        pytest.skip("the profile mini is not built")
    run_report(Params.load(PROJECT / "params.yaml"), "mini", data, figures, out)
    return out


@pytest.fixture(params=["toy", "real"])
def either(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def page(browser: Browser, toy: Path) -> Iterator[Page]:
    page, wrong = opened(browser, toy)
    yield page
    page.context.close()
    assert wrong == []

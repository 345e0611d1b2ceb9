"""The page of 1,000 targets and three encoders in a real browser: it pages, and stays small however much there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_report
from opening import column, opened
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

NODES = "document.querySelectorAll('*').length"
MOST = 6000
"""Elements of the page; of one that built all rows and options there would be hundreds of thousands."""


@pytest.fixture
def page(browser: Browser, many: Path) -> Iterator[Page]:
    page, wrong = opened(browser, many)
    page.locator("#best img").wait_for()
    yield page
    assert page.evaluate(NODES) < MOST
    page.context.close()
    assert wrong == []


def test_it_opens_with_a_bounded_number_of_elements(page: Page, many: Path) -> None:
    assert page.evaluate(NODES) < MOST and many.stat().st_size <= 15_000_000
    for summary in page.locator("details.table summary").all():
        if not summary.evaluate("summary => summary.parentElement.open"):
            summary.click()
    expect(page.locator(".dt-paging")).to_have_count(4)  # three of similarity, and many.csv


def test_a_long_table_is_paged_sorted_by_number_and_filtered_over_all_of_its_rows(page: Page) -> None:
    page.locator("summary", has_text="many.csv").click()
    part = page.locator("details", has=page.locator("table[aria-label='many.csv']"))
    part.locator(".dt-paging").wait_for()
    table = part.locator("table")
    assert table.locator("tbody tr").count() == 100
    for index, name, first, last in ((2, "whole", "−5000", "4999"), (3, "number", "0.000", "1,428")):
        head = table.locator("th", has_text=name)
        head.click()
        expect(head).to_have_attribute("aria-sort", "ascending")
        assert column(table, index)[0] == first
        head.get_by_role("button").press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        assert column(table, index)[0] == last and len(column(table, index)) == 100
    part.get_by_role("link", name="2", exact=True).click()
    assert column(table, 3)[0] == "1,414"
    part.get_by_label("Filter").fill("stolen")
    assert column(table, 1) == [toy_report.EVIL] and page.evaluate("window.stolen") is None


def test_the_viewer_finds_steps_and_scrubs_among_all_targets(page: Page) -> None:
    target = page.locator("select[name=target]")
    assert target.locator("option").count() == 100 and target.input_value() == "t0000"
    page.locator("#stage").press("ArrowLeft")  # around the end
    assert target.input_value() == "t0999" and target.locator("option").count() == 100
    page.get_by_label("Find").fill("T05")
    assert target.locator("option").all_inner_texts() == [f"t05{number:02d}" for number in range(100)]
    assert target.input_value() == "t0500"
    page.locator("#stage").press("ArrowRight")
    assert target.input_value() == "t0501"
    slider = page.get_by_role("slider")
    slider.fill("15")
    value = f"{float(f'{toy_report.distance(502, 15):.4g}'):,.0f}"  # four digits are held
    assert page.locator("#trace output").inner_text() == f"Evaluation 16, at timestep 750: squared distance {value}"
    page.get_by_label("Find").fill("nothing of the kind")
    assert page.get_by_label("Find").get_attribute("aria-invalid") == "true"
    assert target.input_value() == "t0501" and target.locator("option").count() == 100
    page.locator("#choice").get_by_label("Encoder").select_option("vit")
    assert target.input_value() == "t0501"


def test_where_targets_are_few_there_is_nothing_to_find(browser: Browser, toy: Path) -> None:
    page, _ = opened(browser, toy)
    expect(page.get_by_label("Find")).to_be_hidden()
    page.context.close()

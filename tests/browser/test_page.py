"""The report in a real browser: it opens from a file, its tables sort and filter, and it fits screens and readers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opening import column, opened
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser


def test_it_opens_without_an_error_and_without_a_network(browser: Browser, either: Path) -> None:
    page, wrong = opened(browser, either)
    page.locator("#best img").wait_for()
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 0
    page.context.close()
    assert wrong == []


def test_a_table_is_sorted_by_number_where_it_is_of_numbers(page: Page) -> None:
    page.locator("summary", has_text="sizes.csv").click()
    table = page.locator("table[aria-label='sizes.csv']")
    assert column(table, 2) == ["9", "10", "100"]
    for name, index, rising in (
        ("size", 2, ["9", "10", "100"]),
        ("number", 3, ["−12,346", "0.2500", "3.000"]),
        ("name", 1, ["a", "b", "c"]),
    ):
        head = table.locator("th", has_text=re.compile(f"^{name}"))
        head.click()
        expect(head).to_have_attribute("aria-sort", "ascending")
        assert column(table, index) == rising
        head.get_by_role("button").press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        assert column(table, index) == rising[::-1]


def test_a_table_is_filtered(page: Page) -> None:
    page.locator("summary", has_text="similarity-clip.csv").click()
    part = page.locator("details", has=page.locator("table[aria-label='similarity-clip.csv']"))
    assert part.locator("tbody tr").count() == 12
    part.get_by_label("Filter").fill("dog last")
    expect(part.locator("tbody tr")).to_have_count(2)
    assert column(part, 2) == ["dog", "dog"] and column(part, 5) == ["last", "last"]
    part.get_by_label("Filter").fill("nothing of the kind")
    expect(part.locator("tbody")).to_have_text("No row fits.")


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_overflows(width: int, browser: Browser, either: Path) -> None:
    page, _ = opened(browser, either, width)
    for summary in page.locator("summary").all():
        if not summary.evaluate("summary => summary.parentElement.open"):
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tall = page.locator("#trace text").first.evaluate("text => text.getBoundingClientRect().height")
    assert tall >= 10  # not scaled down
    page.context.close()


LUMINANCE = """element => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(value => {
    const part = value / 255;
    return part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  });
  const luminance = ([r, g, b]) => .2126 * r + .7152 * g + .0722 * b;
  const style = getComputedStyle;
  let ground = element;
  while (/, 0\\)$/.test(style(ground).backgroundColor)) ground = ground.parentElement;
  return [style(element).color, style(ground).backgroundColor].map(color => luminance(rgb(color)));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(scheme: str, browser: Browser, toy: Path) -> None:
    page, _ = opened(browser, toy, color_scheme=scheme)
    grounds = []
    for selector in ("p", "figcaption", "dt", "a[href^='#fig']", "th", "td", "pre code", "select", "kbd", "label"):
        text, ground = page.locator(selector).first.evaluate(LUMINANCE)
        contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
        assert contrast >= 4.5, f"{selector}: {contrast:.1f}"
        grounds.append(ground)
    assert all(ground < 0.1 for ground in grounds) if scheme == "dark" else all(ground > 0.8 for ground in grounds)
    page.context.close()


def test_images_have_texts_and_controls_have_labels(browser: Browser, either: Path) -> None:
    page, _ = opened(browser, either)
    assert page.evaluate("[...document.images].every(image => image.alt.trim())")
    assert page.evaluate("document.images.length") > 3
    unnamed = """[...document.querySelectorAll('select, input')].filter(
        control => ![...control.labels].some(label => label.textContent.trim())).map(control => control.outerHTML)"""
    assert page.evaluate(unnamed) == []
    focusable = "[...document.querySelectorAll('[tabindex=\"0\"]')].filter(e => !e.ariaLabel).map(e => e.outerHTML)"
    assert page.evaluate(focusable) == []
    assert page.get_by_role("banner").count() == page.get_by_role("main").count() == 1
    assert page.get_by_role("navigation").count() == 1 and page.locator("html").get_attribute("lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(head => +head.tagName[1])")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    page.context.close()


def test_the_keyboard_reaches_the_viewer_with_visible_focus(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("select[name=sample]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stage"
    assert page.locator("#stage").evaluate("stage => getComputedStyle(stage).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"


def test_in_print_every_table_is_open_and_whole(page: Page) -> None:
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    boxes = page.locator("details.table .scroll")
    assert boxes.count() == 6 and page.locator("details:not([open])").count() == 0
    assert all(box.evaluate("box => box.scrollHeight <= box.clientHeight + 1") for box in boxes.all())
    expect(page.locator("#viewer")).to_be_hidden()

"""The viewer in a real browser: what is chosen is shown, by select boxes, keys and slider."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
import toy_report
from opening import opened, packed
from PIL import Image
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser


def chosen(page: Page) -> list[str]:
    return [
        page.locator(f"#choice select[name={key}]").input_value() for key in ("encoder", "layer", "target", "sample")
    ]


def choose(page: Page, label: str, value: str) -> None:
    page.locator("#choice").get_by_label(label).select_option(value)


def shown(page: Page, id: str) -> bytes:
    """The bytes of an image's data URI."""
    return base64.b64decode(page.locator(f"#{id} img").get_attribute("src").partition(",")[2])


def assert_shows(page: Page, toy: Path, folder: str, target: str, sample: int) -> None:
    """That images and numbers are those of the files."""
    folder = toy.parent / "data/mini" / folder
    for id, end in (("best", ""), ("last", "-last")):
        saved = Image.open(folder / f"{target}-{sample}{end}.png").convert("RGB")
        assert Image.open(io.BytesIO(shown(page, id))).convert("RGB").tobytes() == saved.tobytes()
    rows = [line.split(",") for line in (folder / "decoded.csv").read_text().splitlines()[1:]]
    distance = float(next(row for row in rows if row[:2] == [target, str(sample)])[2])
    cosine, squared, _ = page.locator("#numbers dd").all_inner_texts()
    assert float(squared.replace(",", "")) == pytest.approx(distance, rel=1e-3)
    assert float(cosine) == pytest.approx(1 - distance / 1e4, abs=1e-4)


def test_the_select_boxes_choose_what_is_shown(page: Page, toy: Path) -> None:
    assert chosen(page) == ["clip", "", "cat", "0"]
    assert_shows(page, toy, "decoded/clip", "cat", 0)
    choose(page, "Target", "dog")
    choose(page, "Sample", "1")
    assert_shows(page, toy, "decoded/clip", "dog", 1)
    choose(page, "Encoder", "resnet")
    assert_shows(page, toy, "decoded/resnet", "dog", 1)
    choose(page, "Decoded from", "layer1")
    assert chosen(page) == ["resnet", "layer1", "dog", "0"]  # of a layer there is one sample
    assert_shows(page, toy, "layers/resnet/layer1", "dog", 0)
    assert page.locator("select[name=target] option").count() == 2  # no caption


def test_arrow_keys_go_through_targets_and_features(page: Page, toy: Path) -> None:
    stage = page.locator("#stage")
    stage.press("ArrowRight")
    assert chosen(page) == ["clip", "", "dog", "0"]
    assert_shows(page, toy, "decoded/clip", "dog", 0)
    stage.press("+")
    assert_shows(page, toy, "decoded/clip", "dog", 1)
    stage.press("ArrowDown")
    assert chosen(page) == ["resnet", "", "dog", "1"]
    stage.press("ArrowDown")
    assert_shows(page, toy, "layers/resnet/layer1", "dog", 0)
    stage.press("ArrowDown")  # around the end
    stage.press("ArrowLeft")
    stage.press("ArrowLeft")
    assert chosen(page) == ["clip", "", "tabby", "0"]


def test_a_script_in_a_caption_stays_text(page: Page) -> None:
    choose(page, "Target", "tabby")
    expect(page.locator("#photograph blockquote")).to_have_text(f"“{toy_report.EVIL}”")
    assert page.locator("#numbers dd").all_inner_texts()[2] == "–"  # no photograph for the judge to compare with
    assert page.evaluate("window.stolen") is None


def test_scripts_in_names_and_tables_stay_text(page: Page) -> None:
    part = page.locator("details.table", has=page.get_by_text(f"{toy_report.OWN}.csv"))
    part.locator("summary").click()
    table = part.locator("table.data")
    assert table.locator("th").nth(1).text_content() == toy_report.EVIL
    assert table.locator("td").first.text_content() == toy_report.EVIL
    table.locator("th").first.click()
    part.get_by_label("Filter").fill("script")
    expect(part.locator("tbody tr")).to_have_count(1)
    assert table.get_attribute("aria-label") == f"{toy_report.OWN}.csv"
    assert page.locator("#figures h3", has_text="own").text_content() == toy_report.OWN
    assert page.get_by_alt_text(f"The figure {toy_report.OWN}").count() == 1
    weights = page.locator(".plain .path").all_text_contents()
    assert weights == [f"data/models/clip/{toy_report.OWN}", f"some/where 1.0/{toy_report.EVIL}"]
    assert toy_report.EVIL.partition("'")[0] in page.locator("pre code").text_content()
    assert page.evaluate("window.stolen") is None and page.locator("b, img[onerror], [onerror]").count() == 0
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src='data:,' onerror='window.stolen = 1'>`)")
    page.wait_for_function("window.stolen === 1")  # it would have been seen


def frame(page: Page) -> tuple[int, int, int]:
    """The color in the middle of the estimate, as it is on the screen."""
    box = page.locator("#estimate .frame")
    box.scroll_into_view_if_needed()
    seen = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
    return seen.getpixel((seen.width // 2, seen.height // 2))


def test_scrubbing_moves_the_marker_the_distance_and_the_estimate(page: Page, toy: Path) -> None:
    strip = Image.open(toy.parent / "data/mini/decoded/clip/cat-0-estimates.png").convert("RGB")
    slider, marker = page.get_by_role("slider"), page.locator("#trace circle")
    seen = []
    for evaluation, index in ((15, 1), (24, 1), (25, 2), (39, 3), (0, 0)):
        slider.fill(str(evaluation))
        value = toy_report.distance(1, evaluation)
        said = page.locator("#trace output").inner_text()
        found = re.fullmatch(r"Evaluation (\d+), at timestep (\d+): squared distance ([\d.,]+)", said)
        assert (int(found[1]), int(found[2])) == (evaluation + 1, 900 - 10 * evaluation)  # counted from one
        assert float(found[3].replace(",", "")) == pytest.approx(value, rel=1e-3)
        assert slider.get_attribute("aria-valuetext") == said
        expected = strip.getpixel((index * toy_report.SIDE + 8, 8))
        assert all(abs(a - b) < 20 for a, b in zip(frame(page), expected, strict=True))
        caption = page.locator("#estimate figcaption").inner_text()
        assert caption == f"The estimate x̂ at evaluation {(6, 16, 26, 36)[index]}"
        seen.append((float(marker.get_attribute("cx")), float(marker.get_attribute("cy")), value))
    left = sorted(seen)
    assert left[0] == seen[-1] and left[-1] == seen[-2]  # from the first evaluation to the last
    assert sorted(seen, key=lambda x: x[1]) == sorted(seen, key=lambda x: -x[2])  # a larger distance is higher up
    slider.press("ArrowRight")
    assert page.locator("#trace output").inner_text().startswith("Evaluation 2,")


def test_without_estimates_the_slider_moves_the_marker_alone(page: Page) -> None:
    choose(page, "Encoder", "resnet")
    expect(page.locator("#estimate")).to_be_hidden()
    marker = page.locator("#trace circle")
    before = marker.get_attribute("cx")
    page.get_by_role("slider").fill("7")
    assert float(marker.get_attribute("cx")) < float(before)


def test_the_real_page_shows_each_run(browser: Browser, real: Path) -> None:
    page, _ = opened(browser, real)
    runs = packed(page, "#runs")["runs"]
    features = list(dict.fromkeys((run["encoder"], run["layer"]) for run in runs))
    seen = []
    for _ in features:
        seen.append(tuple(chosen(page)[:2]))
        assert float(page.locator("#numbers dd").first.inner_text()) > 0.3
        page.locator("#stage").press("ArrowDown")
    assert seen == features and len(real.read_bytes()) <= 15_000_000
    page.context.close()

"""The page, opened in a browser."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page


def opened(browser: Browser, path: Path, width: int = 1000, **options: str) -> tuple[Page, list[str]]:
    """The page, and what went wrong or over a network; it cannot reach any."""
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
    page, wrong = context.new_page(), []
    page.set_default_timeout(5000)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = path.resolve().as_uri()
    page.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(("data:", own)) else None
    )
    page.goto(own)
    page.locator(".dt-container").first.wait_for()
    return page, wrong


def packed(page: Page, selector: str) -> Any:
    """What a script element of packed JSON holds."""
    return json.loads(gzip.decompress(base64.b64decode(page.locator(selector).text_content())))


def column(table: Locator, index: int) -> list[str]:
    """The texts of a column, counted from one."""
    return table.locator(f"tbody td:nth-child({index})").all_inner_texts()

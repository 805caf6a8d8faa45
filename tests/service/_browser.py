"""A real browser, and what its console says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

__all__ = ["BUILD", "browsing", "opened", "violations"]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "page"
LIMIT_MS = int(os.environ.get("FITBUS_LIMIT_MS", "30000"))


@contextmanager
def browsing() -> Generator[Browser, None, None]:
    """Debian's Chromium."""
    path = os.environ.get("FITBUS_CHROMIUM") or shutil.which("chromium")
    if not path:  # Python alone doesn't bring one; CI does, and fails at what is skipped
        pytest.skip("install Chromium (`apt-get install chromium`), or set FITBUS_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *expected: str, **options: Any
) -> Generator[Page, None, None]:
    """A page, of whose console nothing is heard but what is expected, in words that begin it."""
    said: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    context = browser.new_context(**options)
    context.set_default_timeout(LIMIT_MS)
    page = context.new_page()
    page.clock.install()  # it goes as it always does, unless a test has it jump
    page.on("console", console)
    page.on("pageerror", lambda error: said.append(f"thrown: {error}"))
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        page.goto(url)
        yield page
        assert [each for each in said if not each.startswith(expected or ("\0",))] == []
        assert hosts - {""} == {urlsplit(url).netloc}, "nothing is asked of other hosts"
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page, for those who can't see or can't point."""
    place = ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
    source = Path(os.environ.get("FITBUS_AXE") or place)
    if not source.is_file():
        pytest.skip("run `npm install --prefix build/npm axe-core`, or set FITBUS_AXE")
    page.evaluate(source.read_text("utf-8"))
    found: Any = page.evaluate("axe.run()")
    assert found["passes"], "it looked at nothing"
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]

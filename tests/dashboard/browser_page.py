"""A real browser for tests: Debian's Chromium through playwright, and what went wrong on its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["AXE", "chromium", "needs_chromium", "serious_faults", "until", "watched_page"]

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def _lacks() -> str:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs playwright for Python"
    return "" if _CHROMIUM else "needs Chromium: apt-get install chromium"


needs_chromium = pytest.mark.skipif(bool(_lacks()), reason=_lacks() or "has all")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def watched_page(browser: Browser, *, offline: bool = False, **options: Any) -> Iterator[Page]:
    """A page that may write nothing to its console, break no policy, and if *offline* load nothing but itself."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        wrong: list[str] = []
        loaded: list[str] = []
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: loaded.append(request.url))
        page.add_init_script(
            "window.broken = []; addEventListener('securitypolicyviolation', (e) => window.broken.push("
            "`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`))"
        )
        yield page
        if options.get("java_script_enabled", True):
            assert page.evaluate("window.broken") == []
            assert page.evaluate("window.evil") is None
        assert wrong == []
        assert not offline or len(loaded) == 1, loaded


def serious_faults(page: Page) -> list[str]:
    """What axe finds that keeps people out."""
    page.evaluate(AXE.read_text())  # not by an element, which the page's policy forbids
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['impact']} {one['id']}: {one['help']} {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def until(page: Page, expression: str) -> None:
    """Wait until *expression* is true; playwright's own way evaluates in the page, which its policy forbids."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")

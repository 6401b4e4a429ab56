"""The lab page in a headless Chromium: starts the server, opens the page, waits for its views."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = {"narrow": 380, "wide": 1400}
HEIGHT = 900


@contextmanager
def browse(home: Path, *options: str) -> Generator[str]:
    """Give the URL of a `lingshu browse` that serves `home`; it has ended afterwards."""
    command = [sys.executable, "-m", "lingshu_mcp.lab_page.serving", "--home", str(home), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def chromium() -> Generator[Browser]:
    """Give a headless browser of the system; none is downloaded."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, url: str, width: int, theme: str = "light") -> Page:
    """Return the page once its first view is there; errors of its script are in `page.problems`."""
    page = browser.new_page(
        viewport={"width": width, "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
    )
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.problems = problems  # type: ignore[attr-defined]
    page.goto(url)
    settle(page)
    return page


def settle(page: Page) -> None:
    """Wait until nothing is loading."""
    page.wait_for_selector("main[aria-busy=false], main h1")
    page.wait_for_function(
        "() => !document.querySelector('.wait, [aria-busy=true]')", timeout=60_000
    )

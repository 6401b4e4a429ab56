"""Seconds that the lab page takes with a large ledger.

`python -m benchmarks.page.large_ledger HOME`. To make such a home:
`python -m benchmarks.ledger.generate HOME/experiments.db --experiments 100000`.
"""

import argparse
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.page.browser import WIDTHS, browse, chromium, open_page, settle


@contextmanager
def timed(what: str, page: Page) -> Generator[None]:
    """Print how long an action takes until its rows are there."""
    begin = time.perf_counter()
    yield
    settle(page)
    rows = page.locator("tbody tr").count()
    print(f"{what:34} {time.perf_counter() - begin:6.2f} s  {rows} rows", flush=True)


def search(page: Page, text: str) -> Callable[[], None]:
    def act() -> None:
        page.get_by_label("Text", exact=True).fill(text)
        page.get_by_role("button", name="Search").click()

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--shot", type=Path, help="Write a screenshot of the list to this file")
    given = parser.parse_args()
    with browse(given.home) as url, chromium() as browser:
        page = open_page(browser, url, WIDTHS["wide"])
        with timed("screens", page):
            page.get_by_role("button", name="Screens").click()
        with timed("experiments, newest", page):
            page.get_by_role("button", name="Experiments").click()
        if given.shot:
            page.screenshot(path=given.shot)
        for _ in range(3):
            with timed("older", page):
                page.get_by_role("button", name="Older").click()
        with timed("text GENE07", page):
            search(page, "GENE07")()
        with timed("text of no row", page):
            search(page, "no such text")()
        with timed("status failed", page):
            page.get_by_label("Text", exact=True).fill("")
            page.get_by_label("Status").select_option("failed")
        with timed("open an experiment", page):
            page.locator("tbody button").first.click()
            page.get_by_role("tab", name="Provenance").click()
        if given.shot:
            page.screenshot(path=given.shot.with_stem(f"{given.shot.stem}-experiment"))
        print(*page.problems, sep="\n")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()

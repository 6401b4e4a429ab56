"""Screenshots of the lab page in its states, widths and themes.

`python -m benchmarks.page.screenshots --home HOME --out FOLDER`. The home needs a finished screen
and two finished experiments of one checkpoint.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.page.browser import WIDTHS, browse, chromium, open_page, settle
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def tab(name: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.get_by_role("tab", name=name).click()
        settle(page)

    return act


def searched(page: Page) -> None:
    page.get_by_label("Gene", exact=True).fill("PSMB9")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_selector(".panel table")


def proposed(page: Page) -> None:
    tab("Plate map")(page)
    if not page.locator("table.plate").count():
        page.get_by_role("button", name="Propose a plate").click()
        page.wait_for_selector("table.plate", timeout=60_000)
        settle(page)


def experiments(page: Page) -> None:
    page.get_by_role("button", name="Experiments").click()
    settle(page)


def compared(other: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        tab("Compare")(page)
        page.get_by_label("Id of the other experiment").fill(other)
        page.keyboard.press("Enter")
        page.wait_for_selector("h3:has-text('Most certain')", timeout=60_000)
        settle(page)

    return act


def nothing(_page: Page) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="Names of states")
    given = parser.parse_args()
    app = App(given.home, door="python")
    screens = call(app, "list_experiments", {"kind": "screens", "limit": 1})
    screen = screens.screens[0].screen_id  # type: ignore[attr-defined]
    ranking = call(app, "get_experiment", {"id": screen}).ranking  # type: ignore[attr-defined]
    best, second = ranking[0].experiment_id, ranking[1].experiment_id
    states: dict[str, tuple[str, Callable[[Page], None]]] = {
        "screens": ("", nothing),
        "experiments": ("", experiments),
        "ranking": (screen, nothing),
        "plate": (screen, proposed),
        "screen-evidence": (screen, tab("Evidence")),
        "volcano": (best, nothing),
        "gene": (best, searched),
        "cells": (best, tab("Cells")),
        "evidence": (best, tab("Evidence")),
        "provenance": (best, tab("Provenance")),
        "compare": (best, compared(second)),
        "unknown": ("exp_none", nothing),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    with browse(given.home) as url, chromium() as browser:
        for name, (target, act) in states.items():
            if given.only and name not in given.only:
                continue
            for width in WIDTHS:
                for theme in ("light", "dark"):
                    address = f"{url}/{target}" if target else url
                    page = open_page(browser, address, WIDTHS[width], theme)
                    act(page)
                    overflow = page.evaluate(
                        "document.documentElement.scrollWidth - window.innerWidth"
                    )
                    page.screenshot(path=given.out / f"{name}-{width}-{theme}.png", full_page=True)
                    problems = page.problems  # type: ignore[attr-defined]
                    print(name, width, theme, f"overflow {overflow}", *problems)
                    page.close()


if __name__ == "__main__":
    main()

"""The README fits two screens, and its figures are those of the results page."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lingshu_tools import Lab

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
WORTH = README.split("## What it is worth")[1].split("\n## ")[0]
FIGURES = re.findall(r"(?<![\d.])[−-]?\.\d{2,3}(?!\d)", WORTH)


@pytest.fixture
def screen(tmp_path: Path) -> Any:
    """Return the demo's screen as the shipped ledger has it; no engine is needed to show it."""
    with closing(sqlite3.connect(ROOT / "experiments.db")) as database:
        [name] = database.execute("SELECT id FROM screen").fetchone()
    with Lab(tmp_path) as lab:
        return lab.run_screen(screen_id=name)


def test_the_answer_in_the_readme_is_the_tools(screen: Any):
    quoted = re.findall(r"^> ?(.*)$", README, re.MULTILINE)
    assert " ".join(quoted).strip() == screen.summary


def test_the_pages_give_the_scores_of_the_shipped_screen(screen: Any):
    start = (ROOT / "docs" / "start.md").read_text("utf-8")
    for row in screen.ranking[:4]:
        name = row.perturbation.removesuffix(" knockout")
        assert re.search(rf"{name} .*{row.score:+.2f}".replace("+", r"\+"), start)
        assert f"{row.score:.2f}" in start.split("## 4. Ask")[1]


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 115


@pytest.mark.parametrize("figure", sorted(set(FIGURES)))
def test_a_figure_of_the_readme_is_one_of_the_results(figure: str):
    assert re.search(rf"(?<!\d){re.escape(figure)}(?!\d)", RESULTS)


def test_the_table_says_where_the_model_loses_and_where_it_is_no_better():
    rows = [row for row in WORTH.splitlines() if row.startswith("|")]
    assert len(FIGURES) >= 16
    assert any("**below**" in row for row in rows)
    assert sum("tie" in row for row in rows) >= 2

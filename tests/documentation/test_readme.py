"""The README fits two screens, and its figures are those of the results page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
WORTH = README.split("## What it is worth")[1].split("\n## ")[0]
FIGURES = re.findall(r"(?<![\d.])[−-]?\.\d{3}", WORTH)


def test_the_readme_fits_two_screens():
    assert len(README.splitlines()) <= 115


@pytest.mark.parametrize("figure", sorted(set(FIGURES)))
def test_a_figure_of_the_readme_is_one_of_the_results(figure: str):
    assert re.search(rf"(?<!\d){re.escape(figure)}(?!\d)", RESULTS)


def test_the_table_says_where_the_model_loses_and_where_it_is_no_better():
    rows = [row for row in WORTH.splitlines() if row.startswith("|")]
    assert len(FIGURES) >= 16
    assert any("**lost**" in row for row in rows)
    assert sum("tie" in row for row in rows) >= 2

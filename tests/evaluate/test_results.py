"""The results page: its links, its files, its figures."""

import csv
import re
from pathlib import Path

import pytest

from benchmarks import draw

PAGE = Path(draw.__file__).parent / "RESULTS.md"
FILES = sorted((PAGE.parent / "results").glob("*.csv"))


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", PAGE.read_text("utf-8"))
    assert len(links) > 20
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_every_file_of_results_is_linked():
    text = PAGE.read_text("utf-8")
    files = [path.name for path in (PAGE.parent / "results").iterdir()]
    assert [name for name in files if f"results/{name}" not in text] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_results_is_a_table(path: Path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert len({*header}) == len(header)
    assert rows
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_is_drawn_from_the_files(name: str):
    figure = draw.FIGURES[name]()
    drawn = [line for axes in figure.axes for line in axes.get_lines()]
    assert len(drawn) >= 10
    assert all(axes.get_xlabel() for axes in figure.axes)
    draw.plt.close(figure)

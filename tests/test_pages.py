"""The pages in Markdown: every relative link leads to a file, every anchor to a heading."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
PAGES = [page for page in PAGES if "_site" not in page.parts]
LINK = re.compile(r"(?:\]\(|<img src=\")(?!https?:)([^)\s\"]+)(?:\)|\")")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip("# ").lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    lines = CODE.sub("", page.read_text("utf-8")).splitlines()
    return {anchor(line) for line in lines if line.startswith("#")}


def broken(page: Path) -> Iterator[str]:
    for link in LINK.findall(page.read_text("utf-8")):
        path, _, wanted = link.partition("#")
        target = page.parent / path if path else page
        anchored = wanted and target.suffix == ".md"
        if not target.exists() or (anchored and wanted not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path):
    assert not list(broken(page))


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](page.md#a-b) [y](#a-c) [z](gone.md)\n", "utf-8")
    assert list(broken(page)) == ["#a-c", "gone.md"]

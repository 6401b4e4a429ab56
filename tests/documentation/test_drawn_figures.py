"""The figures of the documentation are drawn from the files that are here now."""

import json

from docs.builder.figures import ROOT, sources

FOLDER = ROOT / "docs" / "figures"


def test_the_figures_are_drawn_from_the_shipped_checkpoint_and_ledger():
    # Otherwise: make figures, look at them, and commit.
    assert json.loads((FOLDER / "sources.json").read_text("utf-8")) == sources()


def test_every_figure_is_on_a_page():
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))
    names = [path.name for path in FOLDER.glob("*.png")]
    assert len(names) >= 6
    assert not [name for name in names if f"figures/{name})" not in pages]

"""Pages of genes: each joins the one before, and the last says so, whatever is stored here."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lingshu_model.contracts import Catalogue
from lingshu_testing.printed_calls import calls_in
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.experiments import findings
from lingshu_tools.tools import perturb_cells

PERTURB = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 8, "wait_s": 30}
KEPT = 20
"""Genes that an outcome keeps in these tests: half of the panel."""


@pytest.fixture
def done(app: App, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(findings, "KEPT_GENES", KEPT)
    return call(app, "perturb_cells", PERTURB).experiment_id


def leave(app: App, what: str, tmp_path: Path) -> bool:
    """Take away what a reader does not have; return whether all genes are left."""
    if what != "stored":
        shutil.rmtree(app.home / "objects")
    if what == "no checkpoint":
        app.catalogue = Catalogue([tmp_path / "empty"])
    return what == "stored"


def pages(app: App, name: str, **arguments: Any) -> list[str]:
    """The genes of all pages, each had by the call that the page before prints."""
    genes: list[str] = []
    request = {"id": name, **arguments}
    for _ in range(30):
        result = call(app, "get_experiment", request)
        page = [row.gene for row in result.genes]
        assert page, f"an empty page was advised: {request}"
        genes += page
        how = result.truncated.how_to_get_more if result.truncated else ""
        # Up to ", or name genes=[…]".
        printed = calls_in(how.partition(", or name")[0])
        if not printed or printed[0][0] != "get_experiment":
            return genes
        request = {**printed[0][1], "limit": arguments["limit"]}
    raise AssertionError(f"the pages do not end: {genes}")


@pytest.mark.parametrize("what", ["stored", "row", "no checkpoint"])
def test_the_pages_of_an_effect_join_and_end(app: App, done: str, what: str, tmp_path: Path):
    n = 40 if leave(app, what, tmp_path) else KEPT
    strongest = [row["gene"] for row in app.ledger.outcome(done).result["kept"]]
    genes = pages(app, done, detail="effects", limit=7)
    assert len(genes) == len(set(genes)) == n
    assert genes[:KEPT] == strongest


@pytest.mark.parametrize("what", ["stored", "row", "no checkpoint"])
@pytest.mark.parametrize("offset", [KEPT - 5, 35, 40, 5000])
def test_the_last_page_and_those_beyond_it_advise_no_empty_one(
    app: App, done: str, what: str, offset: int, tmp_path: Path
):
    whole = leave(app, what, tmp_path)
    request = {"id": done, "detail": "effects", "limit": 5, "offset": offset}
    result = call(app, "get_experiment", request)
    left = max(0, (40 if whole else KEPT) - offset)
    assert len(result.genes) == min(5, left)
    how = result.truncated.how_to_get_more if result.truncated else ""
    assert ("get_experiment" in how) == (whole and offset == KEPT - 5)
    if not whole:
        # The row has no more, and the experiment has.
        assert result.truncated.total == 40
        assert "replay_experiment" in how or "Install the checkpoint" in how


@pytest.mark.parametrize("what", ["stored", "row", "no checkpoint"])
def test_named_genes_are_shown_at_any_rank_and_those_not_kept_are_said(
    app: App, done: str, what: str, tmp_path: Path
):
    kept = [row["gene"] for row in app.ledger.outcome(done).result["kept"]]
    strongest = pages(app, done, detail="effects", limit=40)
    whole = leave(app, what, tmp_path)
    named = [kept[18], kept[0].lower(), kept[11]]
    result = call(app, "get_experiment", {"id": done, "genes": named})
    assert [row.gene for row in result.genes] == [kept[18], kept[0], kept[11]]
    assert result.truncated is None
    assert not any("not among" in c for c in result.caveats)
    assert pages(app, done, genes=named, limit=2) == [kept[18], kept[0], kept[11]]
    last = strongest[-1]
    result = call(app, "get_experiment", {"id": done, "genes": [kept[3], last], "detail": "genes"})
    assert [row.gene for row in result.genes] == [kept[3], *([last] if whole else [])]
    said = f"not among the {KEPT} genes that its row keeps: {last}"
    assert (said in result.caveats) == (not whole)


@pytest.mark.parametrize("what", ["stored", "no checkpoint"])
def test_named_genes_of_sampled_cells_are_shown_alone(app: App, what: str, tmp_path: Path):
    sampled = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    kept = [row["gene"] for row in app.ledger.outcome(sampled).result["kept"]]
    leave(app, what, tmp_path)
    request = {"id": sampled, "genes": [kept[30], kept[2]]}
    assert [row.gene for row in call(app, "get_experiment", request).genes] == request["genes"]
    assert pages(app, sampled, detail="effects", limit=9) == kept


def test_a_row_that_many_long_genes_fill_names_the_rest_again(
    app: App, done: str, monkeypatch: pytest.MonkeyPatch
):
    def two(rows: list[Any], **_: Any) -> list[Any]:
        return rows[:2]

    strongest = [row["gene"] for row in app.ledger.outcome(done).result["kept"]]
    monkeypatch.setattr(app, "door", "mcp")
    monkeypatch.setattr(perturb_cells, "fitting", two)
    assert pages(app, done, genes=strongest[4:9], limit=3) == strongest[4:9]
    assert pages(app, done, detail="effects", limit=3)[:KEPT] == strongest

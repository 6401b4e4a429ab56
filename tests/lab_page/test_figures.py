"""The numbers of the page's figures are those of the pictures and of the tools."""

import csv
import json
from pathlib import Path

import pytest
from page_lab import Lab

from lingshu_mcp.offers.resources import figure as as_text
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.tools.figures import FIGURES, figure


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def value(text: str) -> float | None:
    return float(text) if text else None


def test_a_volcano_has_the_numbers_behind_the_picture(lab: Lab):
    name = lab.experiments[0]
    drawn = lab.finished("plot_experiment", id=name, kind="volcano", wait_s=45)
    rows, shown = table(drawn.csv), figure(lab.app, name, "volcano")
    assert shown["genes"] == [row["gene"] for row in rows]
    for column, other in (("x", "log2_fold_change"), ("lfsr", "lfsr"), ("change", "change")):
        assert shown[column] == [value(row[other]) for row in rows], column
    assert shown["called"] == [int(row["called"]) for row in rows]
    assert shown["threshold"] is not None
    assert shown["xlabel"].startswith("log2 fold change")


def test_a_ranking_has_every_candidate_with_its_intervals(lab: Lab):
    drawn = lab.finished("plot_experiment", id=lab.screen, kind="ranking", wait_s=45)
    rows, shown = table(drawn.csv), figure(lab.app, lab.screen, "ranking")["rows"]
    assert [row["experiment_id"] for row in shown] == lab.experiments
    assert [row["score"] for row in shown] == [value(row["score"]) for row in rows]
    for row, other in zip(shown, rows, strict=True):
        pair = [value(other["posterior_low"]), value(other["posterior_high"])]
        assert row["interval"] == pytest.approx(pair, rel=1e-4)


def test_an_embedding_is_computed_by_a_child_and_then_has_all_cells(lab: Lab):
    name = lab.experiments[1]
    first = figure(lab.app, name, "embedding")
    drawn = lab.finished("plot_experiment", id=name, kind="embedding", wait_s=45)
    assert first["status"] in ("queued", "running", "succeeded")
    shown, rows = figure(lab.app, name, "embedding"), table(drawn.csv)
    for arm in ("control", "perturbed"):
        cells = [row for row in rows if row["arm"] == arm]
        assert shown["arms"][arm]["x"] == pytest.approx([float(r["pc1"]) for r in cells], rel=1e-4)
        mean = sum(float(r["pc1"]) for r in cells) / len(cells)
        assert shown["arms"][arm]["mean"][0] == pytest.approx(mean, rel=1e-3, abs=1e-4)
        assert all(half > 0 for half in shown["arms"][arm]["half"])
    assert "% of variance" in shown["xlabel"]


def test_a_comparison_has_the_differences_that_the_tool_gives(lab: Lab):
    first, second = lab.experiments[:2]
    result = lab.finished("compare_experiments", ids=[first, second], detail="detailed")
    shown = figure(lab.app, first, "comparison", second)
    place = {gene: i for i, gene in enumerate(shown["gene"])}
    assert shown["gene"][: len(result.genes)] == [row.gene for row in result.genes]
    for row in result.genes:
        i = place[row.gene]
        assert [shown["x"][i], shown["y"][i]] == row.changes
        assert shown["difference"][i] == row.difference
        assert shown["interval"][i] == row.interval
    assert sum(c != 0 for c in shown["called"]) == result.n_different


def test_a_plate_has_the_wells_of_the_newest_proposal(lab: Lab):
    assert set(figure(lab.app, lab.screen, "plate")) >= {"proposal_id", "wells"}
    given = {"screen_id": lab.screen, "replicates": 2}
    earlier = call(lab.app, "propose_batch", {**given, "n_wells": 3, "wait_s": 0})
    shown = figure(lab.app, lab.screen, "plate")
    assert shown["proposal_id"] == earlier.proposal_id  # type: ignore[attr-defined]
    newest = lab.finished("propose_batch", **given, n_wells=2, wait_s=45)
    shown, rows = figure(lab.app, lab.screen, "plate"), table(newest.csv)
    assert shown["proposal_id"] == newest.proposal_id
    assert [w["well"] for w in shown["wells"]] == [row["well"] for row in rows]
    for well, row in zip(shown["wells"], rows, strict=True):
        assert (well["row"], well["column"]) == (int(row["row"]) - 1, int(row["column"]) - 1)
        assert well["direction"] == row["effect_direction"]
        assert well["label"] == row["perturbation"]


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_is_json_without_nan(lab: Lab, kind: str):
    of_screen = kind in ("ranking", "plate")
    name = lab.screen if of_screen else lab.experiments[0]
    other = lab.experiments[1] if kind == "comparison" else ""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    shown = json.loads(as_text(lab.app, name, kind, other), parse_constant=refuse)
    assert shown["id"] == name


@pytest.mark.parametrize(
    ("of_screen", "kind", "other", "says"),
    [
        (True, "pie", None, "there are volcano"),
        (True, "volcano", None, "does not fit"),
        (False, "ranking", None, "does not fit"),
        (False, "comparison", None, "second experiment"),
        (False, "volcano", "exp_x", "no other kind"),
        (False, "comparison", "scr_x", "is a screen"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(
    lab: Lab, of_screen: bool, kind: str, other: str | None, says: str
):
    name = lab.screen if of_screen else lab.experiments[0]
    with pytest.raises(InputError, match=says):
        figure(lab.app, name, kind, other)


def test_an_unknown_id_is_refused(lab: Lab):
    with pytest.raises(NotFoundError):
        figure(lab.app, "exp_none", "volcano")
    given = {"checkpoint": "thp1-crispr", "n_cells": 16, "wait_s": 45}
    sampled = str(call(lab.app, "sample_cells", given).experiment_id)
    with pytest.raises(InputError, match="no stored effect"):
        figure(lab.app, sampled, "volcano")


def test_texts_of_other_authors_are_shown_without_characters_that_steer():
    from lingshu_tools.system.plain_text import plain_values

    hidden = {"rows": [{"label": "A\u202eB\x1b[31m\u200b"}], "n": [1, None, 2.5]}
    assert plain_values(hidden) == {"rows": [{"label": "AB[31m"}], "n": [1, None, 2.5]}

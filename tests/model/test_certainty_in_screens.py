"""Screens rank by scores whose sign, place and combination are judged by the stored effects."""

from pathlib import Path

import numpy as np
import pytest
from made_evidence import PANEL

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.contracts.error_model import DEFAULT
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def posterior(stored_checkpoint: Checkpoint, *targets: str):
    done = [Intervention(kind="knockout", target=t) for t in targets]
    stored = stored_checkpoint.effects.effect({"line": "a"}, done).posterior
    return DEFAULT.widened(stored, stored_checkpoint.gene_variance)


def sure_gene(stored_checkpoint: Checkpoint, target: str) -> int:
    """The gene that a target changes most certainly, other than the targets."""
    p = posterior(stored_checkpoint, target)
    order = [i for i in np.argsort(p.lfsr) if PANEL[i] not in ("G3", "G5", "G7")]
    return int(order[0])


def screen(app: App, gene: int, sign: float, candidates: object = "all_seen", **more: object):
    wanted = "raise" if sign > 0 else "lower"
    return call(app, "run_screen", {
        "objective": {wanted: [PANEL[gene]]}, "candidates": candidates, "n_cells": 16,
        "context": {"line": "a"}, "wait_s": 30, **more,
    })  # fmt: skip


def test_a_row_is_as_certain_as_its_effect_at_any_number_of_cells(
    app: App, stored_checkpoint: Checkpoint
):
    gene = sure_gene(stored_checkpoint, "G3")
    p = posterior(stored_checkpoint, "G3")
    few, many = (screen(app, gene, np.sign(p.mean[gene]), n_cells=n) for n in (16, 48))
    for result in (few, many):
        rows = {row.perturbation: row for row in result.ranking}
        row = rows["G3 knockout"]
        assert row.lfsr == pytest.approx(max(p.lfsr[gene], 0.001), rel=1e-3)
        assert row.certainty == "supported"
        low, high = row.interval
        assert low < abs(p.mean[gene]) < high
        assert (high - low) / 3.92 == pytest.approx(p.sd[gene], rel=0.25)
        assert result.top_k == 1
        assert sum(r.in_top for r in result.ranking) == pytest.approx(1)
        assert row.in_top > 0.9
        rates = [r.fdr for r in sorted(result.ranking, key=lambda r: r.lfsr)]
        assert rates == sorted(rates)
        assert rates[0] == pytest.approx(row.lfsr, abs=1e-6)
    assert "of 3 scores is supported (lfsr <= 0.05)" in few.summary
    assert "null labels" not in few.summary


def test_a_combination_stands_beside_its_best_part_and_its_expectations(
    app: App, stored_checkpoint: Checkpoint
):
    gene = sure_gene(stored_checkpoint, "G3")
    sign = float(np.sign(posterior(stored_checkpoint, "G3").mean[gene]))
    pair = [{"kind": "knockout", "target": t} for t in ("G3", "G5")]
    result = screen(app, gene, sign, ["G3", "G5", pair])
    rows = {row.perturbation: row for row in result.ranking}
    row = rows["G3 knockout + G5 knockout"].combination
    assert rows["G3 knockout"].combination is None
    singles = [sign * posterior(stored_checkpoint, t).mean[gene] for t in ("G3", "G5")]
    together = sign * posterior(stored_checkpoint, "G3", "G5").mean[gene]
    assert row.best_single == ("G3 knockout", "G5 knockout")[int(np.argmax(singles))]
    assert row.gain_over_best_single == pytest.approx(together - max(singles), abs=1e-4)
    assert row.gain_over_additive == pytest.approx(together - sum(singles), abs=1e-4)
    # Without cells of the pair the prediction is the saturating expectation itself.
    assert row.gain_over_saturating is None
    assert not row.parallel_effects
    assert not any("parallel_effects" in caveat for caveat in result.caveats)


def test_parts_that_do_the_same_are_called_parallel(tmp_path: Path):
    from dataclasses import replace

    from made_training import finished, training_cells

    cells = training_cells(targets=("G3", "G5"), cells=300, controls=300, seed=2)
    # The cells of G3 are shared out between two labels: two genes of one pathway.
    place = {
        c.interventions[0].target: i for i, c in enumerate(cells.conditions) if c.interventions
    }
    condition = cells.condition.copy()
    condition[condition == place["G5"]] = -1
    rows = np.flatnonzero(condition == place["G3"])
    condition[rows[::2]] = place["G5"]
    cells = replace(cells, condition=condition).take(np.flatnonzero(condition >= 0))
    built = finished(cells, tmp_path / "run", shams=0)
    app = App(tmp_path / "home", engine=FakeEngine(list(PANEL)),
              catalogue=Catalogue([built.path.parent]))  # fmt: skip
    pair = [{"kind": "knockout", "target": t} for t in ("G3", "G5")]
    result = screen(app, 20, 1.0, ["G3", pair])
    row = next(r for r in result.ranking if r.combination)
    single = call(app, "perturb_cells", {"context": {"line": "a"}, "interventions": pair,
                                         "n_cells": 16, "wait_s": 30})  # fmt: skip
    app.close()
    assert row.combination.parallel_effects
    for answer in (result, single):
        assert any(c.startswith("parallel_effects: ") for c in answer.caveats)


def test_a_ranking_and_a_volcano_are_drawn_by_the_stored_effects(
    app: App, stored_checkpoint: Checkpoint
):
    from lingshu_tools.tools.plot_experiment import PLOTS, PlotExperiment

    gene = sure_gene(stored_checkpoint, "G3")
    result = screen(app, gene, float(np.sign(posterior(stored_checkpoint, "G3").mean[gene])))
    job, numbers, _ = PLOTS["ranking"].draw(app, PlotExperiment(id=result.screen_id))
    assert job["sham_limit"] is None
    assert job["called_by"] == "supported (lfsr ≤ 0.05)"
    hits = {row["label"]: row["hit"] for row in job["rows"]}
    assert hits == {r.perturbation: r.certainty == "supported" for r in result.ranking}
    assert {"lfsr", "in_top", "posterior_low", "held_out"} <= set(numbers[0])
    child = result.ranking[0].experiment_id
    job, numbers, _ = PLOTS["volcano"].draw(app, PlotExperiment(id=child))
    assert job["ylabel"] == "−log10 local false sign rate"
    for row in numbers:
        assert (row["called"] != 0) == (row["lfsr"] <= 0.05)

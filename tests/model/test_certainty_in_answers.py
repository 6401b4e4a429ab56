"""Answers say how certain a change is by the effect that is stored, apart from the simulation."""

from pathlib import Path

import pytest
from made_evidence import PANEL

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call


def answer(app: App, target: str, line: str = "a", **more: object):
    intervention = {"kind": "knockout", "target": target}
    arguments = {"context": {"line": line}, "interventions": [intervention], "n_cells": 16,
                 "wait_s": 30, "genes": list(PANEL[:100])}  # fmt: skip
    return call(app, "perturb_cells", arguments | more)


def test_a_word_follows_from_the_stored_rate_whatever_was_sampled(
    app: App, stored_checkpoint: Checkpoint
):
    few, many = answer(app, "G3"), answer(app, "G3", n_cells=64, seed=5)
    stored = stored_checkpoint.effects.effect(
        {"line": "a"}, [Intervention(kind="knockout", target="G3")]
    )
    words = {gene.gene: gene.certainty for gene in few.genes}
    assert words == {gene.gene: gene.certainty for gene in many.genes}
    for gene, lfsr in zip(few.genes, stored.posterior.lfsr, strict=False):
        expected = "supported" if lfsr <= 0.05 else "suggestive" if lfsr <= 0.2 else "not dist"
        assert gene.certainty.startswith(expected)
        assert gene.lfsr >= 0.001
        assert gene.sham_q is None
    supported = sum(w == "supported" for g, w in words.items() if g != "G3")
    assert supported > 2
    assert "genes' changes are supported (lfsr <= 0.05), strongest (log1p_cp10k)" in few.summary
    assert few.summary.split(" supported")[0] == many.summary.split(" supported")[0].replace(
        "64 simulated", "16 simulated"
    )


def test_an_effect_of_nothing_is_said_to_be_none_however_large_the_sampled_changes(
    tmp_path: Path,
):
    from made_training import finished, training_cells

    cells = training_cells(targets=("G3", "G5"))
    # G5 is a label of control cells: the stored effect is none.
    place = next(i for i, c in enumerate(cells.conditions)
                 if c.interventions and c.interventions[0].target == "G5")  # fmt: skip
    from dataclasses import replace

    import numpy as np

    rows = np.flatnonzero(cells.condition == 0)
    relabelled = cells.condition.copy()
    relabelled[cells.condition == place] = -1
    relabelled[rows[: len(rows) // 2]] = place
    kept = np.flatnonzero(relabelled >= 0)
    cells = replace(cells, condition=relabelled).take(kept)
    built = finished(cells, tmp_path / "run", shams=0)
    app = App(tmp_path / "home", engine=FakeEngine(list(PANEL)),
              catalogue=Catalogue([built.path.parent]))  # fmt: skip
    result = answer(app, "G5")
    app.close()
    assert max(abs(gene.change) for gene in result.genes) > 0.5
    assert "no gene's change is distinguishable from no effect" in result.summary


def test_the_error_of_a_gene_is_that_of_changes_of_its_size(
    app: App, stored_checkpoint: Checkpoint
):
    result = answer(app, "G3")
    stored = stored_checkpoint.effects.effect(
        {"line": "a"}, [Intervention(kind="knockout", target="G3")]
    )
    for gene, mean in zip(result.genes, stored.posterior.mean, strict=False):
        expected = 0.03 if abs(mean) < 0.02 else 0.11 if abs(mean) < 0.4 else 0.37
        assert gene.prediction_error == pytest.approx(expected)
    assert not any("prediction_error is null" in caveat for caveat in result.caveats)


def test_two_contrasts_give_no_error_and_the_reason_is_said(app: App):
    result = answer(app, "G5", line="b")
    assert result.support.tier == "seen_elsewhere"
    assert {gene.prediction_error for gene in result.genes} == {None}
    assert any("fewer than three held-out contrasts" in caveat for caveat in result.caveats)


def test_the_outcome_of_the_null_labels_of_the_context_is_reported(app: App):
    said = "4 of 100 null labels of 150 control cells had a gene called at lfsr 0.05"
    assert answer(app, "G3").null_check == said
    assert answer(app, "G3", line="b").null_check is None
    size = answer(app, "G3").magnitude
    assert size.sham_p is None
    assert size.raw > size.value
    assert size.mc_interval[0] <= size.value <= size.mc_interval[1]
    assert size.sham_q95 >= 0.2

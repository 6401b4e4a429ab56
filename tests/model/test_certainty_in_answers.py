"""Answers say how certain a change is by the effect that is stored, apart from the simulation."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_evidence import PANEL, errors, made_checkpoint, made_evidence

from lingshu_model.contracts import Catalogue, Checkpoint, Intervention
from lingshu_model.contracts.error_model import DEFAULT, ErrorModel
from lingshu_model.contracts.posterior import Posterior
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import LingshuError
from lingshu_tools.report.effect_view import EffectView
from lingshu_tools.report.experiment_views import shown


def answer(app: App, target: str, line: str = "a", **more: object):
    intervention = {"kind": "knockout", "target": target}
    arguments = {"context": {"line": line}, "interventions": [intervention], "n_cells": 16,
                 "wait_s": 30, "genes": list(PANEL[:100])}  # fmt: skip
    return call(app, "perturb_cells", arguments | more)


def expected(stored_checkpoint: Checkpoint, target: str, model: ErrorModel = DEFAULT) -> Posterior:
    """The stored effect in a new experiment."""
    stored = stored_checkpoint.effects.effect(
        {"line": "a"}, [Intervention(kind="knockout", target=target)]
    )
    return model.widened(stored.posterior, stored_checkpoint.gene_variance)


def test_a_word_follows_from_the_stored_rate_whatever_was_sampled(
    app: App, stored_checkpoint: Checkpoint
):
    few, many = answer(app, "G3"), answer(app, "G3", n_cells=64, seed=5)
    stored = expected(stored_checkpoint, "G3")
    words = {gene.gene: gene.certainty for gene in few.genes}
    assert words == {gene.gene: gene.certainty for gene in many.genes}
    for i, gene in enumerate(few.genes):
        lfsr = stored.lfsr[i]
        text = "supported" if lfsr <= 0.05 else "suggestive" if lfsr <= 0.2 else "not dist"
        assert gene.certainty.startswith(text)
        assert gene.lfsr >= 0.001
        low, high = gene.interval
        # Numbers of results have five digits.
        assert (high - low) / 3.92 == pytest.approx(stored.sd[i], rel=1e-3)
        assert (low + high) / 2 == pytest.approx(stored.mean[i], rel=1e-3, abs=1e-3)
        # A supported sign is one that the interval, at 90 %, does not leave.
        if text == "supported":
            assert abs(stored.mean[i]) > 1.64 * stored.sd[i]
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


FITTED = ErrorModel(posterior=0.5, between=0.02, square=0.3, n_contrasts=6, n_folds=2)


def calibrated(folder: Path, **row: object) -> Checkpoint:
    """A checkpoint whose evidence has an error model, and one bin of coverage as `row` says."""
    evidence = made_evidence()
    certainty = errors()
    certainty["error_model"] = FITTED.record
    certainty["error_by_size"][-1] |= {"covered_standard_error": 0.01, **row}
    evidence["tiers"]["seen"]["certainty"] = certainty
    evidence["gene_variance"] = [0.5 + 0.01 * i for i in range(len(PANEL))]
    return made_checkpoint(folder, evidence)


def opened(tmp_path: Path, checkpoint: Checkpoint) -> App:
    return App(tmp_path / "home", engine=FakeEngine(list(PANEL)),
               catalogue=Catalogue([checkpoint.path.parent]))  # fmt: skip


def test_intervals_and_signs_are_those_of_a_new_experiment(tmp_path: Path):
    checkpoint = calibrated(tmp_path / "run")
    app = opened(tmp_path, checkpoint)
    result = answer(app, "G3")
    app.close()
    stored = expected(checkpoint, "G3", FITTED)
    posterior = checkpoint.effects.effect(
        {"line": "a"}, [Intervention(kind="knockout", target="G3")]
    ).posterior
    for i, gene in enumerate(result.genes):
        variance = 0.5 + 0.01 * i
        wide = 0.5 * posterior.sd[i] ** 2 + 0.02 * variance + 0.3 * posterior.mean[i] ** 2
        assert gene.sd == pytest.approx(wide**0.5, rel=1e-3)
        assert gene.lfsr == pytest.approx(max(stored.lfsr[i], 0.001), rel=1e-3)
        assert gene.lfsr >= posterior.lfsr[i] * 0.999
    assert not any("other data" in caveat for caveat in result.caveats)


def test_too_few_contrasts_to_fit_a_width_are_said(app: App):
    for line in "ab":
        assert "interval: width from other data" in answer(app, "G3", line=line).caveats


@pytest.mark.parametrize(
    ("row", "warned"),
    [
        ({"covered": 0.85}, True),
        ({"covered": 0.995}, True),
        ({"covered": 0.93}, False),
        # Not estimable: too few contrasts, too few genes, or contrasts that disagree.
        ({"covered": 0.85, "n_contrasts": 2}, False),
        ({"covered": 0.85, "n": 29}, False),
        ({"covered": 0.85, "covered_standard_error": 0.06}, False),
    ],
)
def test_an_answer_says_where_its_intervals_failed_on_held_out_cells(
    tmp_path: Path, row: dict[str, object], warned: bool
):
    checkpoint = calibrated(tmp_path / "run", **row)
    app = opened(tmp_path, checkpoint)
    result = answer(app, "G3")
    small = [g.gene for g in result.genes if abs(g.model_mean) < 0.4]
    less = answer(app, "G3", genes=small[:3])
    app.close()
    share = f"{row['covered']:.0%}"
    said = f"95 % intervals held {share} of held-out changes for |change| above 0.4"
    assert (said in result.caveats) is warned
    # It is not said where no such change is shown.
    assert said not in less.caveats


def test_a_time_that_was_never_trained_on_is_refused_with_those_that_were(app: App):
    # The lines a, b and c stand for times: any field of a context is refused alike.
    with pytest.raises(LingshuError) as refused:
        answer(app, "G3", line="24 h")
    text = str(refused.value)
    assert "24 h" in text
    assert all(known in text.partition("24 h")[2] for known in ("'a'", "'b'", "'c'")), text


def test_an_effect_without_doubt_has_no_interval(app: App, stored_checkpoint: Checkpoint):
    result = answer(app, "G3")
    assert all(g.interval for g in result.genes)
    view = EffectView(shown(app, result.experiment_id).design, None)  # type: ignore[arg-type]
    stored = view._stored
    assert stored is not None
    none = replace(stored.posterior, sd=stored.posterior.sd * 0)
    view._stored = replace(stored, posterior=none)
    assert view._wide(0) is None

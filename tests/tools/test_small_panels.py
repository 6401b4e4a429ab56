"""Small panels: the UMI that moved genes hold, and changes against genes without an effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Catalogue, Intervention, Origin, decode_cells
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import sample_arm
from lingshu_testing import FakeEngine
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

CALL = {"interventions": [{"kind": "knockout", "target": "STAT1"}], "n_cells": 64, "wait_s": 45}


class SampledEngine(FakeEngine):
    """Makes cells with the checkpoint's sampler, in this process."""

    def __init__(self, checkpoint) -> None:
        super().__init__(checkpoint.panel)
        self.sampler = load_sampler(checkpoint)

    def cells(self, job_id: str):
        arm = self.arms[job_id]
        cells = sample_arm(self.sampler, arm)
        cells.origin = Origin(arm.digest, self.info().profile_digest)
        return cells


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory):
    checkpoint = Catalogue().load("thp1-crispr")
    app = App(tmp_path_factory.mktemp("small"), engine=SampledEngine(checkpoint))
    yield app
    app.close()


@pytest.fixture(scope="module")
def stat1(shipped: App) -> Any:
    given = CALL | {"checkpoint": "thp1-crispr", "n_cells": 256, "top": 200}
    begun = call(shipped, "perturb_cells", given)
    assert shipped.runner.wait([begun.experiment_id], 600)
    return call(
        shipped,
        "get_experiment",
        {
            "id": begun.experiment_id,
            "detail": "effects",
            "limit": 200,
            "normalise": "unresponsive",
        },
    )


def test_losing_stat1_raises_fewer_genes_against_genes_without_an_effect(stat1: Any):
    others = [g for g in stat1.genes if g.gene != "STAT1"]
    raised = [g for g in others if g.change_mc_interval[0] > 0]
    still_raised = [g for g in others if g.unresponsive_mc_interval[0] > 0]
    assert len(still_raised) < 0.85 * len(raised)
    gaps = np.array([g.unresponsive_change - g.change for g in raised])
    assert (gaps < 0).mean() > 0.95
    (kpnb1,) = (g for g in others if g.gene == "KPNB1")
    assert kpnb1.unresponsive_mc_interval[0] <= 0
    fallen = {g.gene: g.unresponsive_change for g in others}
    assert fallen["UBE2L6"] < -1.5
    assert fallen["PSMB9"] < -1.5


def test_the_share_of_umi_that_called_genes_hold_is_said_with_a_caveat(shipped: App, stat1: Any):
    checkpoint = Catalogue().load("thp1-crispr")
    stored = checkpoint.effects.effect(
        checkpoint.contexts[0], [Intervention(kind="knockout", target="STAT1")]
    ).posterior
    # Genes are called by their certainty in a new experiment.
    model = ErrorModel.from_evidence(checkpoint.evidence, "seen")
    posterior = model.widened(stored, checkpoint.gene_variance)
    control = next(i for i, e in enumerate(checkpoint.config["seen"]) if not e["interventions"])
    counts = np.asarray(checkpoint.reference["mean_count"][control], np.float64)
    share = counts[posterior.lfsr <= 0.05].sum() / counts.sum()
    assert stat1.moved_umi_share == pytest.approx(share, rel=0.02)
    plain = call(shipped, "get_experiment", {"id": stat1.experiment_id})
    assert plain.moved_umi_share == stat1.moved_umi_share
    assert any("normalise=" in caveat and f"hold {share:.0%}" in caveat for caveat in plain.caveats)
    assert any("without an effect" in caveat and "ln CP10K" in caveat for caveat in stat1.caveats)
    weak = CALL | {
        "checkpoint": "thp1-crispr",
        "interventions": [{"kind": "knockout", "target": "MYC"}],
    }
    begun = call(shipped, "perturb_cells", weak)
    assert shipped.runner.wait([begun.experiment_id], 600)
    result = call(shipped, "get_experiment", {"id": begun.experiment_id})
    assert result.moved_umi_share < 0.05
    assert not any("normalise=" in caveat for caveat in result.caveats)


def test_cp10k_stays_the_default_and_its_numbers_do_not_change(app: App):
    plain = call(app, "perturb_cells", CALL)
    assert all(g.unresponsive_change is None for g in plain.genes)
    scaled = call(app, "get_experiment", {"id": plain.experiment_id, "normalise": "unresponsive"})
    for before, after in zip(plain.genes, scaled.genes, strict=True):
        assert (before.gene, before.change) == (after.gene, after.change)
        low, high = after.unresponsive_mc_interval
        assert low <= after.unresponsive_change <= high


def test_other_size_factors_need_the_cells(app: App):
    name = call(app, "perturb_cells", CALL).experiment_id
    artifacts = app.ledger.outcome(name).artifacts
    assert decode_cells(app.ledger.get_object(artifacts["control"])).shape[0] == 64
    app.ledger.object_path(artifacts["control"]).unlink()
    for _ in range(2):
        with pytest.raises(InputError, match=f"needs the cells of {name}.*replay_experiment"):
            call(app, "get_experiment", {"id": name, "normalise": "unresponsive"})
        app.ledger.object_path(artifacts["effects"]).unlink(missing_ok=True)


def test_where_they_have_no_use_they_are_refused(app: App, tmp_path: Path):
    name = call(app, "perturb_cells", CALL).experiment_id
    sample = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    screen = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1"], "n_cells": 8}
    screen_id = call(app, "run_screen", screen | {"wait_s": 30}).screen_id
    for arguments in (
        {"id": sample},
        {"id": screen_id},
        {"id": name, "detail": "provenance"},
        {"id": name, "enrichment": "hallmark"},
    ):
        with pytest.raises(InputError, match="normalise='unresponsive' is for"):
            call(app, "get_experiment", arguments | {"normalise": "unresponsive"})

"""A user's cells scored and completed by the network, recorded and replayed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
from made_model import SPEC, made_cells
from user_cells_lab import LocalChildren, LocalEngine, patiently

from lingshu_model.contracts import Catalogue, Cells, Checkpoint, decode_cells
from lingshu_model.contracts.user_cells import BITS, DRAWS
from lingshu_model.network import numerics
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.scoring import score_cells
from lingshu_model.train import checkpoint as build
from lingshu_model.train.data import sources as data
from lingshu_model.train.data.cells import add_shams
from lingshu_model.train.initialisation import InitialState
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.experiments.scores import score_summary
from lingshu_tools.report.experiment_views import shown
from lingshu_tools.tools.score_cells import ContextScore, _alike, _succeeded, show_score
from lingshu_tools.user_cells import Roots


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint with a network whose weights are random."""
    numerics.prepare(threads=1)
    root = tmp_path_factory.mktemp("networked")
    made_cells().write_h5ad(root / "made.h5ad")
    state = InitialState(SPEC, add_shams(data.read_cells(SPEC, root), SPEC.shams, 0))
    network = state.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    weights = dict(network.named_parameters())
    build.write(root, SPEC, state.config, state.cells, network, weights, None)
    return Catalogue([root]).load("made")


@pytest.fixture
def lab(tmp_path: Path, networked: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application on that checkpoint, with the user's folder allowed."""
    monkeypatch.setenv("LINGSHU_REFERENCE_LEDGER", str(tmp_path / "none.db"))
    home, folder = tmp_path / "home", tmp_path / "data"
    folder.mkdir()
    opened = App(
        home, engine=LocalEngine(networked, home), catalogue=Catalogue([networked.path.parent])
    )
    opened.children = LocalChildren(home)
    Roots(home).add(folder)
    yield opened
    opened.close()


@pytest.fixture
def mine(tmp_path: Path, networked: Checkpoint, lab: App) -> Path:
    """40 cells over two thirds of the panel."""
    rng = np.random.default_rng(5)
    panel = networked.panel
    kept = panel[: 2 * len(panel) // 3]
    adata = anndata.AnnData(rng.poisson(2.0, (40, len(kept))).astype(np.float32))
    adata.var_names = kept
    adata.write_h5ad(tmp_path / "data" / "mine.h5ad")
    return tmp_path / "data" / "mine.h5ad"


def stored(app: App, experiment_id: str, role: str):
    outcome = app.ledger.outcome(experiment_id)
    assert outcome
    return decode_cells(app.ledger.get_object(outcome.artifacts[role]))


def test_scores_are_those_of_the_estimator_whatever_the_tile(
    lab: App, networked: Checkpoint, mine: Path
):
    result = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 40, "seed": 3})
    assert result.status == "succeeded"
    bits = {json.dumps(row.context): row.bits for row in result.contexts}
    cells = stored(lab, result.experiment_id, "scores")
    contexts = lab.ledger.experiment(result.experiment_id).request["cells"]["against"]
    assert cells.shape == (40, (len(contexts) + 1) * DRAWS)
    x = anndata.read_h5ad(mine).X
    counts = np.zeros((40, len(networked.panel)), np.int32)
    measured = np.zeros(len(networked.panel), bool)
    measured[: x.shape[1]] = True
    counts[:, measured] = x
    for context in contexts:
        row = next(i for i, e in enumerate(networked.config["seen"])
                   if e["context"] == context and not e["interventions"])  # fmt: skip
        mean = np.nan_to_num(networked.reference["mean_count"][row])
        depth = np.log(counts.sum(1) / (mean[measured].sum() / mean.sum())).astype(np.float32)
        genes = measured & np.logical_and.reduce([networked.measured(c) for c in contexts])
        expected = score_cells(
            load_sampler(networked), counts, genes, context, seed=3, depth=depth
        ).bits.mean()
        assert bits[json.dumps(context)] == pytest.approx(expected, abs=2e-3)
    assert result.contexts[0].bits == min(bits.values())
    assert result.typical.verdict in ("typical", "partly typical", "not typical")


def test_a_score_is_replayed_exactly_and_a_changed_score_would_show(
    lab: App, mine: Path, monkeypatch: pytest.MonkeyPatch
):
    result = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 9})
    assert patiently(lab, "replay_experiment", {"id": result.experiment_id}).verdict == "exact"
    compute = lab.engine.cells

    def other(job_id: str) -> Cells:
        cells = compute(job_id)
        counts = cells.counts
        counts[4, 3] += 1
        return Cells(counts, cells.measured, cells.origin)

    monkeypatch.setattr(lab.engine, "cells", other)
    assert patiently(lab, "replay_experiment", {"id": result.experiment_id}).verdict == "different"


def test_completed_cells_keep_what_was_measured_and_get_the_rest(
    lab: App, networked: Checkpoint, mine: Path
):
    gene = networked.panel[2]
    arguments = {"cells": str(mine), "n_cells": 40, "clamp": [{"gene": gene, "count": 0}]}
    result = patiently(lab, "complete_cells", arguments)
    assert result.status == "succeeded"
    x = anndata.read_h5ad(mine).X
    cells = stored(lab, result.experiment_id, "cells")
    n = x.shape[1]
    others = [i for i in range(n) if i != 2]
    assert np.array_equal(cells.counts[:, others], x[:, others])
    assert not cells.counts[:, 2].any()
    measured = networked.measured(result.context)
    assert cells.measured[measured].all()
    assert result.drawn_genes == int(measured[n:].sum())
    assert cells.counts[:, n:].any()
    assert {row.gene for row in result.genes} <= set(networked.panel[n:])
    assert patiently(lab, "replay_experiment", {"id": result.experiment_id}).verdict == "exact"
    h5ad = patiently(lab, "export_experiment", {"id": result.experiment_id})
    var = anndata.read_h5ad(h5ad.path).var
    assert (var["in_file"] == "yes").sum() == n


@pytest.mark.parametrize("tool", ["score_cells", "complete_cells"])
def test_results_are_small_shown_again_and_cheap_to_ask_for(lab: App, mine: Path, tool: str):
    arguments = {"cells": str(mine), "n_cells": 8}
    result = patiently(lab, tool, arguments)
    value = structured(result, tool, arguments, detailed=False)
    assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) <= 2400
    assert {"status", "summary", "experiment_id", "ledger_head", "next_step"} <= value.keys()
    again = patiently(lab, "get_experiment", {"id": result.experiment_id})
    assert again.summary == result.summary
    rows = len(lab.ledger.find(limit=50).items)
    assert patiently(lab, tool, {**arguments, "dry_run": True}).status == "planned"
    assert len(lab.ledger.find(limit=50).items) == rows
    table = patiently(lab, "export_experiment", {"id": result.experiment_id, "format": "csv"})
    assert table.rows > 0


@pytest.mark.parametrize("tool", ["score_cells", "complete_cells"])
def test_limits_and_checkpoints_without_a_network_are_refused_before_anything_is_read(
    lab: App, app: App, mine: Path, tool: str
):
    with pytest.raises(InputError, match="at most"):
        patiently(lab, tool, {"cells": str(mine), "n_cells": 2001})
    with pytest.raises(InputError, match="no network"):
        patiently(app, tool, {"cells": str(mine)})


def scored(app: App, name: str, bits: np.ndarray):
    """A recorded score with other `bits` of two contexts, [cells, 2], and of simulated cells."""
    record = shown(app, name)
    # Of each context `DRAWS` equal draws; those of the simulated cells are the first context's.
    counts = np.repeat(np.column_stack([bits, bits[:, 0]]) * BITS, DRAWS, axis=1).astype(np.int32)
    cells = Cells(counts, np.ones(counts.shape[1], bool), None)
    result = score_summary({"against": [{"line": "x"}, {"line": "y"}]}, cells)
    return replace(record, outcome=replace(record.outcome, result=result))


def test_how_clearly_a_context_fits_best_is_not_said_of_one_cell(lab: App, mine: Path):
    name = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 2}).experiment_id
    near, far = np.array([[2.0, 2.1], [2.0, 1.95]] * 6), np.array([[3.0, 2.1], [2.9, 2.2]] * 6)
    for bits, word in (
        (far[:1], "next of the 2 scored line=x, +0.9 bits, how certain is unknown of one cell)"),
        (near[:1], "next of the 2 scored line=y, +0.1 bits, how certain is unknown of one cell)"),
        (far, "next of the 2 scored line=x, +0.8 bits, 95 % interval 0.74 to 0.86)"),
        (near, "next of the 2 scored line=y, +0.025 bits, 95 % interval -0.02 to 0.07, not told"),
    ):
        result = show_score(lab, scored(lab, name, bits))
        assert (result.contexts[1].more_se is None) == (len(bits) == 1)
        assert f"bits per gene; {word}" in result.summary
        assert "clearly" not in result.summary


def test_contexts_that_share_a_field_are_said_to_be_compared_in_the_others(lab: App, mine: Path):
    name = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 2}).experiment_id
    record = shown(lab, name)
    row = record.result["contexts"][0]
    design = record.design
    trained = [{"type": t, "donor": d} for t in ("B", "T") for d in ("1", "2")]
    checkpoint = SimpleNamespace(contexts=trained, config=design.checkpoint.config)
    of_one = [c for c in trained if c["type"] == "B"]
    for against, said in ((of_one, True), (trained[1:3], False), (trained, False)):
        rows = [ContextScore(**{**row, "context": c}) for c in against]
        assert bool(_alike(replace(design, checkpoint=checkpoint), rows)) == said
    (caveat,) = _alike(
        replace(design, checkpoint=checkpoint),
        [ContextScore(**{**row, "context": c}) for c in of_one],
    )
    assert "have type=B: which fits best is a question of donor" in caveat
    # Where training had no other value, there is nothing that was left out.
    checkpoint = SimpleNamespace(contexts=of_one, config=design.checkpoint.config)
    rows = [ContextScore(**{**row, "context": c}) for c in of_one]
    assert not _alike(replace(design, checkpoint=checkpoint), rows)


def test_a_context_without_a_score_comes_last_and_breaks_nothing(lab: App, mine: Path):
    name = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 2}).experiment_id
    record = scored(lab, name, np.array([[2.0, 2.1], [2.0, 2.2]]))
    first, second = record.result["contexts"]
    for empty in ([first], [first, second]):
        rows = [
            {"context": row["context"], "best_share": 0.5}
            | dict.fromkeys(("bits", "se", "more_than_best", "more_se"))
            if row in empty
            else row
            for row in (first, second)
        ]
        outcome = replace(record.outcome, result={**record.result, "contexts": rows})
        result = show_score(lab, replace(record, outcome=outcome))
        assert [row.bits is None for row in result.contexts] == [len(empty) == 2, True]
        assert ("no finite score" in result.summary) == (len(empty) == 2)


def test_a_score_and_completed_cells_are_shown_without_their_checkpoint(
    lab: App, mine: Path, tmp_path: Path
):
    score = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 5})
    drawn = patiently(lab, "complete_cells", {"cells": str(mine), "n_cells": 5})
    with pytest.raises(InputError, match="leave out genes"):
        call(lab, "get_experiment", {"id": score.experiment_id, "genes": ["G1"]})
    lab.catalogue = Catalogue([tmp_path / "empty"])
    result = call(lab, "get_experiment", {"id": score.experiment_id})
    assert result.status == "succeeded"
    assert score.typical.verdict in result.summary
    assert context_label(score.contexts[0].context) in result.summary
    result = call(lab, "get_experiment", {"id": drawn.experiment_id})
    # Means, which have no sign and no interval.
    assert [row.mean for row in result.genes[:3]] == [row.mean for row in drawn.genes[:3]]
    assert "strongest changes" not in result.summary


def test_evidence_of_perturbations_does_not_stand_beside_scores_and_completions(
    lab: App, mine: Path
):
    for tool in ("score_cells", "complete_cells"):
        result = patiently(lab, tool, {"cells": str(mine), "n_cells": 8})
        assert result.evidence is None
        assert result.held_out is None


def test_a_file_that_the_checkpoint_was_trained_on_is_named(
    lab: App, networked: Checkpoint, mine: Path, monkeypatch: pytest.MonkeyPatch
):
    fresh = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 8})
    assert not [c for c in fresh.caveats if "was trained" in c]
    record = shown(lab, fresh.experiment_id)
    digest = record.design.cells["file_digest"]
    assert digest.startswith("sha256:")
    data = {"files": {"another_name.h5ad": digest}}
    monkeypatch.setitem(record.design.checkpoint.evidence, "data", data)
    assert [c for c in show_score(lab, record).caveats if "may be among its training cells" in c]


def test_a_verdict_on_another_context_than_the_best_says_so(lab: App, mine: Path):
    result = patiently(lab, "score_cells", {"cells": str(mine), "n_cells": 8})
    record = shown(lab, result.experiment_id)
    best = record.design.cells["against"][0]
    other = dict.fromkeys(best, "another")
    row = record.result["contexts"][0]
    rows = [{**row, "context": best, "bits": 1.0}, {**row, "context": other, "bits": 2.0}]
    outcome = replace(record.outcome, result={**record.result, "contexts": rows})
    for first, second in ((best, other), (other, best)):
        cells = {**record.design.cells, "against": [first, second]}
        changed = replace(record, design=replace(record.design, cells=cells), outcome=outcome)
        summary = _succeeded(changed)["summary"]
        assert f"best fits {context_label(best)}" in summary
        assert ("As cells of it" in summary) == (first == best)
        assert ("Not it but the context that was named" in summary) == (first == other)
        assert f"as cells of {context_label(other)}" in summary or first == best

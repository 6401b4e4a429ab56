"""compare_experiments: differences gene by gene, paired where streams are shared, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lingshu_model.contracts import Catalogue, decode_cells
from lingshu_model.contracts.catalogue import pin
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_testing import CONTEXT, TARGETS, FakeEngine, make_checkpoint
from lingshu_tools.analysis import expression_levels
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.errors import InputError

N_CELLS = 24


def perturbed(app: App, target: str, **more: Any) -> str:
    interventions = [{"kind": "knockout", "target": t} for t in target.split("+")]
    given = {"interventions": interventions, "n_cells": N_CELLS, "wait_s": 30} | more
    result = call(app, "perturb_cells", given)
    assert result.status == "succeeded"
    return result.experiment_id


def compared(app: App, *ids: str, **more: Any) -> Any:
    return call(app, "compare_experiments", {"ids": list(ids), "limit": 200} | more)


def levels(app: App, name: str, role: str) -> np.ndarray:
    outcome = app.ledger.outcome(name)
    return expression_levels(decode_cells(app.ledger.get_object(outcome.artifacts[role])))


def changes(app: App, name: str) -> np.ndarray:
    return levels(app, name, "perturbed") - levels(app, name, "control")


def rows(result: Any) -> dict[str, Any]:
    return {row.gene: row for row in result.genes}


def test_cells_of_one_seed_are_compared_pair_by_pair(app: App, checkpoint):
    ids = [perturbed(app, target) for target in ("STAT1", "JAK2")]
    result = compared(app, *ids)
    assert result.pairing.startswith("paired")
    first, second = (changes(app, name) for name in ids)
    expected = stats.ttest_rel(second, first).confidence_interval()
    for gene, row in rows(result).items():
        at = checkpoint.panel.index(gene)
        assert row.mc_difference == pytest.approx((second - first)[:, at].mean(), abs=1e-3)
        assert row.mc_interval == pytest.approx([expected.low[at], expected.high[at]], rel=1e-3)


@pytest.mark.parametrize("changed", [{"seed": 5}, {"first_cell": 7}, {"n_cells": N_CELLS + 1}])
def test_cells_of_other_streams_are_not_paired_and_the_reason_is_said(
    app: App, checkpoint, changed: dict[str, int]
):
    ids = [perturbed(app, "STAT1"), perturbed(app, "JAK2", **changed)]
    result = compared(app, *ids)
    (name,) = changed
    assert f"other {name}" in result.pairing
    assert result.experiments[1].unpaired == f"other {name}"
    assert any(text.startswith(f"{name}: ") for text in result.differs)
    first, second = (changes(app, each) for each in ids)
    errors = [c.std(0, ddof=1) / np.sqrt(len(c)) for c in (first, second)]
    half = stats.t.ppf(0.975, N_CELLS - 1) * np.hypot(*errors)
    for gene, row in rows(result).items():
        low, high = row.mc_interval
        assert high - low == pytest.approx(2 * half[checkpoint.panel.index(gene)], rel=1e-3)


def test_only_those_that_share_streams_are_paired_among_many(app: App):
    ids = [perturbed(app, "STAT1"), perturbed(app, "JAK2"), perturbed(app, "IRF1", seed=1)]
    result = compared(app, *ids)
    assert [view.unpaired for view in result.experiments] == [None, None, "other seed"]
    assert "3 (other seed)" in result.pairing


def test_without_stored_cells_differences_are_not_paired(app: App):
    ids = [perturbed(app, target) for target in ("STAT1", "JAK2")]
    paired = rows(compared(app, *ids))
    app.ledger.object_path(app.ledger.outcome(ids[1]).artifacts["perturbed"]).unlink()
    result = compared(app, *ids)
    assert "cells not stored here" in result.pairing
    for gene, row in rows(result).items():
        assert row.mc_difference == paired[gene].mc_difference
    app.ledger.object_path(app.ledger.outcome(ids[1]).artifacts["effects"]).unlink()
    with pytest.raises(InputError, match=rf"{ids[1]}: its cells are not stored here.*replay"):
        compared(app, *ids)


def test_without_a_stored_effect_certain_means_beyond_monte_carlo_noise(app: App):
    ids = [perturbed(app, target, n_cells=64) for target in ("STAT1", "JAK2")]
    result = compared(app, *ids)
    assert result.n_different is None
    assert all(row.difference is None and row.lfsr is None for row in result.genes)
    assert any("beyond Monte Carlo noise" in caveat for caveat in result.caveats)
    certain = []
    for name in ids:
        spread = stats.ttest_1samp(changes(app, name), 0).confidence_interval()
        certain.append((spread.low > 0) | (spread.high < 0))
    targets = [app.catalogue.load("made").panel.index(target) for target in ("STAT1", "JAK2")]
    for place, each in enumerate(certain):
        each[targets] = False
        assert result.experiments[place].n_certain == each.sum()
    assert result.experiments[1].n_both == (certain[0] & certain[1]).sum()


def test_shared_and_opposite_genes_are_those_of_the_listed_changes(app: App):
    ids = [perturbed(app, t, n_cells=64) for t in ("STAT1+JAK2", "STAT1+IRF1", "JAK2+IRF1")]
    shared, opposite = (compared(app, *ids, show=show) for show in ("shared", "opposite"))
    assert len(shared.genes) == shared.n_shared
    assert len(opposite.genes) == opposite.n_opposite > 0
    for row in shared.genes:
        assert len({np.sign(change) for change in row.changes}) == 1
    for row in opposite.genes:
        assert min(row.changes) < 0 < max(row.changes)
    assert not set(rows(shared)) & set(rows(opposite))


def test_the_targets_own_genes_are_left_out_unless_they_are_named(app: App):
    ids = [perturbed(app, target) for target in ("STAT1", "JAK2")]
    result = compared(app, *ids)
    assert result.left_out == ["JAK2", "STAT1"]
    assert not {"STAT1", "JAK2"} & set(rows(result))
    assert len(result.genes) == result.n_genes
    named = compared(app, *ids, genes=["stat1", "PD-L1"])
    assert list(rows(named)) == ["STAT1", "CD274"]


def test_the_request_and_the_numerics_that_differ_are_named(open_app, engine):
    app = open_app(engine)
    first = perturbed(app, "STAT1")
    engine.device = "another"
    second = perturbed(app, "STAT1", seed=3)
    result = compared(app, first, second)
    assert result.differs == ["seed: 0 | 3", "numerics.device: fake | another"]
    same = compared(app, second, perturbed(app, "STAT1", seed=3))
    assert same.differs == []
    assert all(row.mc_difference == 0 for row in same.genes)


class EachEngine(FakeEngine):
    """Makes cells over the panel of the checkpoint that an arm names."""

    def __init__(self, panels: dict[str, list[str]]) -> None:
        super().__init__(panels["made"])
        self.panels = panels

    def cells(self, job_id: str):
        self.panel = self.panels[self.arms[job_id].checkpoint]
        return super().cells(job_id)


def test_genes_of_other_panels_are_matched_by_symbol(open_app, checkpoint, tmp_path: Path):
    other = make_checkpoint(checkpoint.path.parent, name="turned")
    file = other.path / "panel.json"
    entries = json.loads(file.read_text("utf-8"))["genes"][::-1]
    entries[0]["symbol"] = "ONLYHERE"
    file.write_text(json.dumps({"genes": entries}), "utf-8")
    pin(other.path)
    other = Catalogue([checkpoint.path.parent]).load("turned")
    app = open_app(EachEngine({"made": checkpoint.panel, "turned": other.panel}))
    ids = [perturbed(app, "STAT1", checkpoint=name, n_cells=16) for name in ("made", "turned")]
    result = compared(app, *ids)
    assert "ONLYHERE" not in rows(result)
    assert result.n_genes == len(checkpoint.panel) - 2  # the replaced gene, and the target
    assert any("different checkpoints" in caveat for caveat in result.caveats)
    names = list(rows(result))[:20]
    each = [
        {g.gene: g.change for g in call(app, "get_experiment", {"id": i, "genes": names}).genes}
        for i in ids
    ]
    for name in names:
        assert rows(result)[name].changes == pytest.approx([e[name] for e in each], abs=1e-4)
        gap = each[1][name] - each[0][name]
        assert rows(result)[name].mc_difference == pytest.approx(gap, abs=1e-3)
    with pytest.raises(InputError, match="not on the panel of every experiment"):
        compared(app, *ids, genes=[checkpoint.panel[-1]])


def test_every_page_of_genes_is_had_by_the_printed_call(app: App):
    ids = [perturbed(app, target) for target in ("STAT1", "JAK2")]
    whole = list(rows(compared(app, *ids)))
    genes: list[str] = []
    while True:
        page = compared(app, *ids, limit=9, offset=len(genes))
        genes += rows(page)
        if len(genes) == len(whole):
            break
        assert page.truncated.total == len(whole)
        assert f"offset={len(genes)}" in page.truncated.how_to_get_more
    assert genes == whole


@pytest.mark.parametrize("n", [2, 5])
def test_agreement_is_of_each_with_the_first_and_of_all_pairs(app: App, n: int):
    ids = [perturbed(app, target) for target in TARGETS[:n]]
    result = compared(app, *ids)
    assert [(p.a, p.b) for p in result.pairs] == [
        (a, b) for b in range(1, n + 1) for a in range(1, b)
    ]
    first = {p.b: p.pearson for p in result.pairs if p.a == 1}
    assert [view.pearson for view in result.experiments] == [None, *first.values()]


def test_what_cannot_be_compared_is_refused_with_what_to_give_instead(app: App):
    first, second = perturbed(app, "STAT1"), perturbed(app, "JAK2")
    sample = call(app, "sample_cells", {"n_cells": 8, "wait_s": 30}).experiment_id
    screen = {"objective": {"lower": ["PSMB9"]}, "candidates": ["STAT1"], "n_cells": 8}
    screen_id = call(app, "run_screen", screen | {"wait_s": 30}).screen_id
    for ids, said in (
        ([first, first], f"{first}' twice"),
        ([first, screen_id], "is a screen.*experiment_id"),
        ([first, sample], "different tools.*perturb_cells.*sample_cells.*paired control"),
        ([sample, first], "different tools"),
        ([first, "exp_unknown"], "exp_unknown"),
        ([first], "ids"),
        ([f"exp_{i}" for i in range(11)], "ids"),
    ):
        with pytest.raises(InputError, match=said):
            call(app, "compare_experiments", {"ids": ids})
    with pytest.raises(InputError, match="show='shared' has no use beside genes"):
        compared(app, first, second, show="shared", genes=["STAT1"])
    with pytest.raises(InputError, match="NOGENE"):
        compared(app, first, second, genes=["NOGENE"])


def test_an_experiment_that_is_not_finished_is_named_with_its_state(open_app, held):
    app = open_app(held)
    ids = [
        call(app, "perturb_cells", {"interventions": [{"kind": "knockout", "target": target}],
                                    "n_cells": 8, "wait_s": 0}).experiment_id
        for target in ("STAT1", "JAK2")
    ]  # fmt: skip
    with pytest.raises(InputError, match=rf"{ids[0]} is (queued|running).*get_experiment"):
        compared(app, *ids)
    held.gate.set()


class Stored:
    """The shipped checkpoint, which stores effects, with an engine that makes cells up."""

    def __init__(self, place: Path) -> None:
        self.checkpoint = Catalogue().load("thp1-crispr")
        self.app = App(place, engine=FakeEngine(self.checkpoint.panel))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    stored = Stored(tmp_path_factory.mktemp("stored"))
    yield stored
    stored.app.close()


def of_thp1(stored: Stored, target: str, **more: Any) -> str:
    begun = call(
        stored.app,
        "perturb_cells",
        {
            "interventions": [{"kind": "knockout", "target": target}],
            "checkpoint": "thp1-crispr",
            "n_cells": 8,
            "wait_s": 45,
        }
        | more,
    )
    assert stored.app.runner.wait([begun.experiment_id], 300)
    return begun.experiment_id


def test_certainty_is_that_of_the_stored_effects_not_of_the_simulated_cells(stored: Stored):
    ids = [of_thp1(stored, target) for target in ("STAT1", "SMAD4")]
    result = compared(stored.app, *ids)
    effects, context = stored.checkpoint.effects, stored.checkpoint.contexts[0]
    records = [stored.app.ledger.experiment(i).request["interventions"] for i in ids]
    from lingshu_model.contracts import Intervention

    # The wider sd of a new experiment, as in answers about each of them.
    model = ErrorModel.from_evidence(stored.checkpoint.evidence, "seen")
    posteriors = [
        model.widened(
            effects.effect(context, [Intervention(**r[0])]).posterior,
            stored.checkpoint.gene_variance,
        )
        for r in records
    ]
    for gene, row in list(rows(result).items())[:40]:
        at = stored.checkpoint.panel.index(gene)
        assert row.changes == pytest.approx([p.mean[at] for p in posteriors], rel=1e-3)
        assert row.difference == pytest.approx(
            posteriors[1].mean[at] - posteriors[0].mean[at], rel=1e-3
        )
        low, high = row.interval
        assert low <= row.difference <= high
        sd = np.hypot(*(p.sd[at] for p in posteriors))
        assert high - low < 4.5 * sd
        assert (row.lfsr > 0.025) == (low <= 0 <= high) or abs(row.lfsr - 0.025) < 0.01
    assert 0 < result.n_different < result.n_genes
    assert "supported" in result.summary


def test_two_seeds_of_one_question_differ_by_simulation_alone(stored: Stored):
    ids = [of_thp1(stored, "STAT1", seed=seed) for seed in (0, 1)]
    result = compared(stored.app, *ids)
    assert result.n_different == 0
    for row in result.genes:
        assert (row.difference, row.interval, row.lfsr) == (0, [0, 0], 1)
    assert any(row.mc_difference for row in result.genes)
    assert any("one posterior" in caveat for caveat in result.caveats)


def test_two_numbers_of_one_gene_are_said_to_be_of_two_kinds(stored: Stored, app: App):
    ids = [of_thp1(stored, target) for target in ("STAT1", "SMAD4")]
    result = compared(stored.app, *ids, genes=["PSMB9"])
    (row,) = result.genes
    given = {"id": ids[0], "genes": ["PSMB9"]}
    (alone,) = call(stored.app, "get_experiment", given).genes
    assert row.changes[0] == pytest.approx(alone.model_mean)
    assert row.changes[0] != pytest.approx(alone.change, abs=1e-3)
    concise = structured(result, "compare_experiments", {"ids": ids}, detailed=False)
    assert any("model_mean" in c and "simulated" in c for c in concise["caveats"])
    # Without stored effects both are changes of simulated cells.
    simulated = compared(app, *(perturbed(app, target) for target in ("STAT1", "JAK2")))
    assert not any("model_mean" in c for c in simulated.caveats)


def test_the_evidence_of_each_experiment_stands_beside_it(stored: Stored):
    ids = [of_thp1(stored, target) for target in ("STAT1", "SMAD4")]
    for view in compared(stored.app, *ids).experiments:
        shown = call(stored.app, "get_experiment", {"id": view.experiment_id}).held_out
        assert view.held_out == pytest.approx([shown.value, *shown.interval])


def test_contexts_that_differ_are_named(open_app, checkpoint, tmp_path: Path):
    contexts = [CONTEXT, CONTEXT | {"cell_line": "U937"}]
    two = make_checkpoint(checkpoint.path.parent, name="two", contexts=contexts)
    app = open_app(FakeEngine(two.panel))
    ids = [perturbed(app, "STAT1", checkpoint="two", context=context) for context in contexts]
    result = compared(app, *ids)
    assert "context.cell_line: THP-1 | U937" in result.differs
    assert "U937" in result.summary
    assert result.pairing.startswith("paired")

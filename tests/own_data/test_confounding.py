"""What limits every effect of a data set is a caveat of its checkpoint, and so of every answer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_data import adata_of, read, spec_for
from scipy import sparse

from lingshu_model.contracts.catalogue import MOST_CAVEAT, NO_REPLICATES, Catalogue
from lingshu_model.evaluate import __main__ as evaluation
from lingshu_model.finishing import evidence
from lingshu_model.finishing.caveats import of_cells, with_caveats
from lingshu_model.finishing.estimate import EffectFit
from lingshu_model.train import command
from lingshu_model.train.spec import TrainingSpec

PART = "what differs between replicates is part of these effects"


def _caveats(folder: Path, animals: list[str]) -> list[str]:
    """Return the caveats of ctrl, A and B cells in turn, with these animals in turn."""
    column = [animals[i % len(animals)] for i in range(120)]
    cells, _ = read(adata_of(animal=column), folder, replicate="animal")
    return of_cells(cells)


@pytest.mark.parametrize(
    ("animals", "which"),
    [
        # One animal for each arm; and several against one control animal.
        (["c", "a", "b"], "all"),
        (["c", "a1", "b1", "c", "a2", "b2"], "all"),
        # Of A there is one animal, of B two, of control two: B's spread is estimated.
        (["c1", "a", "b1", "c2", "a", "b2"], "1 of 2"),
    ],
)
def test_a_replicate_that_makes_up_an_arm_is_a_caveat(
    tmp_path: Path, animals: list[str], which: str
):
    """No method can tell it from the effect, and held-out cells have the same animals."""
    (said,) = _caveats(tmp_path, animals)
    assert said.startswith(f"In {which} conditions")
    assert PART in said
    assert "held-out cells share it" in said


@pytest.mark.parametrize(
    "animals",
    [
        # Each animal has all arms; two animals in each arm.
        ["x", "x", "x", "y", "y", "y"],
        ["c1", "a1", "b1", "c2", "a2", "b2"],
    ],
)
def test_replicates_whose_differences_cancel_or_are_estimated_are_none(
    tmp_path: Path, animals: list[str]
):
    """Nothing is said of them."""
    assert not _caveats(tmp_path, animals)


@pytest.mark.parametrize(
    ("animals", "which"), [(["x"], "all"), (["x", "x", "x", "y", "x", "y"], "1 of 2")]
)
def test_a_replicate_that_alone_has_both_arms_is_a_caveat(
    tmp_path: Path, animals: list[str], which: str
):
    """How it differs from the next is not seen."""
    assert _caveats(tmp_path, animals) == [
        f"In {which} conditions one replicate alone has both arms: lfsr takes its cells as "
        "independent."
    ]


@pytest.mark.parametrize("column", [None, "donor"])
def test_a_checkpoint_says_that_no_replicates_are_named_where_none_are(column: str | None):
    checkpoint = Catalogue().load("pbmc")  # every effect is of one replicate, all cells
    config = {**checkpoint.config, "training": {"replicate": column}}
    said = replace(checkpoint, config=config).caveats
    assert said == ([] if column else [NO_REPLICATES])


def test_the_note_of_an_effect_does_not_deny_replicates_that_were_named(tmp_path: Path):
    """Cells of one animal are not called cells without replicates."""
    animals = ["c", "a", "b"] * 40
    cells, _ = read(adata_of(animal=animals), tmp_path, replicate="animal")
    notes = {row.note for row in EffectFit(cells, {}).run().rows}
    assert all("one replicate in an arm" in note for note in notes)
    without, _ = read(adata_of(), tmp_path)
    notes = {row.note for row in EffectFit(without, {}).run().rows}
    assert all("no replicates named" in note for note in notes)


@pytest.mark.parametrize("named", [True, False])
def test_cells_of_a_file_are_compared_with_control_cells_of_the_same_file(
    tmp_path: Path, named: bool
):
    """Two files of a context, each with a drug and control cells, differ by more than a drug."""
    cells, _ = read(adata_of(240, donor=["d1", "d2"] * 120), tmp_path, replicate="donor")
    perturbed = [i for i, c in enumerate(cells.conditions) if c.interventions]
    # Control cells of both files, A of the first, B of the second.
    source = np.where(np.isin(cells.condition, perturbed), 0, np.arange(240) // 120)
    source[cells.condition == perturbed[1]] = 1
    cells = replace(
        cells, source=source, measured=np.repeat(cells.measured, 2, axis=0),
        replicate=cells.replicate if named else None,
    )  # fmt: skip
    fit = EffectFit(cells, {})
    m = fit.effects.measured
    assert m.paired.all()
    for number, home in zip(perturbed, (0, 1), strict=True):
        row = fit._row(cells.conditions[number])
        control = ~np.isin(cells.condition, perturbed) & (source == home)
        assert m.cells[row].tolist() == [(cells.condition == number).sum(), control.sum()]
    assert {*m.replicates.tolist()} == {2 if named else 1}


def test_genes_beyond_the_largest_token_are_a_caveat(tmp_path: Path):
    """With their names; the sentence is no longer than one that is quoted."""
    adata = adata_of()
    counts = adata.X.toarray()
    counts[:, 5:13] = 20_000
    counts[:, 5] += 1
    adata.X = sparse.csr_matrix(counts)
    adata.var_names = [f"A-GENE-OF-A-VERY-LONG-NAME-{i}" for i in range(24)]
    cells, _ = read(adata, tmp_path)
    (said,) = of_cells(cells)
    assert said.startswith("Counts above 9,999 entered as 10,000: changes of 8 genes (A-GENE-OF-A")
    assert len(said) <= MOST_CAVEAT
    assert with_caveats(["first"], cells) == ["first", said]


@pytest.mark.slow
def test_the_caveat_is_in_the_checkpoint_and_its_specification_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Evaluation reads the specification from the checkpoint."""
    few = evidence.Draws(bootstrap=5, monte_carlo=2, halves=3)
    monkeypatch.setattr(evidence, "DRAWS", few)
    adata_of(240, animal=["c", "a", "b"] * 80).write_h5ad(tmp_path / "d.h5ad")
    more: dict[str, Any] = {"recipe": "effects", "network": None, "shams": 2}
    written = spec_for(replicate="animal", **more)
    (tmp_path / "spec.json").write_text(written.model_dump_json())
    command.train(tmp_path / "spec.json", tmp_path, tmp_path / "runs", 1, None, None)
    checkpoint = Catalogue([tmp_path / "runs" / "t" / "checkpoint"]).load("t")
    assert any(PART in said for said in checkpoint.caveats)
    again = TrainingSpec.model_validate(checkpoint.config["training"])
    assert again.caveats == checkpoint.caveats
    assert np.array_equal(
        json.loads(written.model_dump_json())["sources"], checkpoint.config["training"]["sources"]
    )


@pytest.mark.slow
def test_cells_that_are_in_the_effects_are_not_evaluated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Effects of a checkpoint are those of all cells; the folds of its training are shown."""
    monkeypatch.setattr(evaluation, "end_by_signals", lambda: None)
    few = evidence.Draws(bootstrap=5, monte_carlo=2, halves=3)
    monkeypatch.setattr(evidence, "DRAWS", few)
    adata_of(360).write_h5ad(tmp_path / "d.h5ad")
    more: dict[str, Any] = {"recipe": "effects", "network": None, "shams": 2}
    (tmp_path / "spec.json").write_text(spec_for(**more).model_dump_json())
    command.train(tmp_path / "spec.json", tmp_path, tmp_path / "runs", 1, None, None)
    place = str(tmp_path / "runs" / "t" / "checkpoint" / "t")

    def run(*options: str) -> Result:
        out = str(tmp_path / "out")
        line = [place, "--data", str(tmp_path), "--out", out, *options]
        return CliRunner().invoke(evaluation.main, line)

    refused = run("--held-out", "validation")
    assert refused.exit_code == 1
    assert "effects of t are estimated from all its cells, these among them" in refused.output
    shown = run()
    assert shown.exit_code == 0, shown.output
    assert "keeps no cells out" in shown.output
    assert "| replicate_reference |" in shown.output
    assert "not estimable, unseen" in shown.output
    assert not (tmp_path / "out").exists()
    assert run("--write-evidence").exit_code == 1


@pytest.mark.parametrize(
    ("control", "perturbed", "smaller"), [(40, 80, 40), (80, 40, 40), (49, 71, 49)]
)
def test_what_is_missing_of_a_figure_is_the_smaller_arm(
    tmp_path: Path, control: int, perturbed: int, smaller: int
):
    """Held-out cells of a condition say nothing without held-out cells of its control."""
    adata = adata_of(control + perturbed, labels=["ctrl"])
    adata.obs["condition"] = ["ctrl"] * control + ["A"] * perturbed
    cells, _ = read(adata, tmp_path)
    missing: dict[str, str] = {}
    folds = [*evidence._folds(cells, missing)]
    assert not [fold for fold in folds if fold.tier == "seen"]
    assert missing["seen"].endswith(f"the largest has {smaller}; 50 would do")


def test_arms_that_are_large_enough_are_held_out_in_fifths(tmp_path: Path):
    """Fifty cells of each are enough."""
    adata = adata_of(100, labels=["ctrl", "A"])
    cells, _ = read(adata, tmp_path)
    missing: dict[str, str] = {}
    folds = [fold for fold in evidence._folds(cells, missing) if fold.tier == "seen"]
    assert len(folds) == 5
    assert "seen" not in missing
    assert all(not {*fold.train.tolist()} & {*fold.test.tolist()} for fold in folds)

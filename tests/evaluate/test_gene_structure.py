"""Cells whose gene-gene structure is compared, and the tables of their scores."""

import csv
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import CONTROL, Truth, write_checkpoint, write_data

from benchmarks.environments import python_of, run
from benchmarks.gene_structure import __main__ as command
from benchmarks.gene_structure import tables
from benchmarks.gene_structure.cells import (
    BOTH,
    DRAWS,
    EFFECTS_ONLY,
    FEWEST,
    GENE,
    HALF,
    INDEPENDENT,
    NETWORK_ONLY,
    TRAINING,
    UNMOVED,
    Compared,
    compared,
    distinct,
    permuted,
    write_group,
)
from benchmarks.vcc.cells import COLUMN
from benchmarks.vcc.cells import CONTROL as LABEL
from lingshu_model.contracts import Catalogue
from lingshu_model.evaluate.arms import ArmStore
from lingshu_model.evaluate.metrics.matrices import Sparse, csr
from lingshu_model.evaluate.study import Study

ENVS = os.environ.get("LINGSHU_PEER_ENVS")


def numbered(n: int, first: int = 1) -> Sparse:
    """Cells that differ in the count of their first gene."""
    return csr(np.stack([np.arange(first, first + n), np.ones(n, int)], axis=1))


def each_once(cells: Sparse) -> set[int]:
    numbers = cells.toarray()[:, 0].tolist()
    assert len({*numbers}) == len(numbers)
    return {*numbers}


def linked(n: int, seed: int, genes: int = 30, strength: float = 1.0) -> Sparse:
    """Cells of which a common factor moves the first half of the genes up, the others down."""
    generator = np.random.default_rng(seed)
    factor = strength * generator.normal(size=(n, 1))
    signs = np.where(np.arange(genes) < genes // 2, 0.5, -0.5)
    return csr(generator.poisson(20 * np.exp(factor * signs)).astype(np.int32))


def test_permuted_genes_keep_their_counts_and_lose_their_correlations():
    cells = linked(400, 1)
    alone = permuted(cells, np.random.default_rng(2))
    np.testing.assert_array_equal(
        np.sort(alone.toarray(), axis=0), np.sort(cells.toarray(), axis=0)
    )
    before, after = (np.corrcoef(c.toarray(), rowvar=False) for c in (cells, alone))
    pairs = np.triu_indices(len(before), 1)
    assert np.abs(before[pairs]).mean() > 0.5
    assert np.abs(after[pairs]).mean() < 0.08


def test_of_moved_cells_with_one_start_the_first_is_kept():
    starts = csr(np.array([[1, 0], [2, 2], [1, 0], [0, 0], [2, 2], [3, 1]]))
    kept = distinct(numbered(6), starts)
    assert kept.toarray()[:, 0].tolist() == [1, 2, 4, 6]


def test_every_arm_has_as_many_cells_as_half_of_the_held_out_ones_and_none_twice():
    arms = {NETWORK_ONLY: numbered(230), UNMOVED: numbered(400), TRAINING: numbered(120)}
    each = Compared("C", "seen", "", numbered(230), arms)
    assert each.n_cells == 115
    seen: list[set[int]] = []
    for draw in range(3):
        target, drawn = each.drawn(draw)
        assert {*drawn} == {NETWORK_ONLY, UNMOVED, TRAINING, HALF, INDEPENDENT}
        assert {cells.shape[0] for cells in (target, *drawn.values())} == {115}
        held, half = each_once(target), each_once(drawn[HALF])
        assert not held & half
        for name in (NETWORK_ONLY, UNMOVED, TRAINING):
            each_once(drawn[name])
        assert {*drawn[INDEPENDENT].toarray()[:, 0].tolist()} == half
        seen.append(held)
    assert seen[0] != seen[1]
    again = each.drawn(0)[1][NETWORK_ONLY].toarray()
    np.testing.assert_array_equal(again, each.drawn(0)[1][NETWORK_ONLY].toarray())


def test_too_few_cells_for_halves_leave_two_arms_out_and_few_training_cells_another():
    arms = {NETWORK_ONLY: numbered(90), UNMOVED: numbered(70), TRAINING: numbered(60)}
    each = Compared("C", "seen", "", numbered(90), arms)
    assert each.n_cells == 70  # of the control cells, which no condition goes without
    assert {*each.drawn(0)[1]} == {NETWORK_ONLY, UNMOVED}


def test_a_draw_of_an_arm_does_not_depend_on_the_other_arms():
    arms = {NETWORK_ONLY: numbered(120), UNMOVED: numbered(120)}
    both = Compared("C", "seen", "", numbered(120), arms)
    alone = replace(both, arms={UNMOVED: arms[UNMOVED]})
    np.testing.assert_array_equal(*(each.drawn(1)[1][UNMOVED].toarray() for each in (both, alone)))


class Drawn(ArmStore):
    """A store that draws cells from a truth; its training control cells come with replacement."""

    pool: Mapping[str, Sparse] | None = None

    def counts(self, condition, seed, *, n=None, steps=None):  # pyright: ignore
        name = condition.interventions[0].target if condition.interventions else CONTROL
        if self.pool is None:
            return csr(Truth().cells(name, n, seed + 5))
        rows = np.random.default_rng(3).integers(self.pool[CONTROL].shape[0], size=n)
        start = self.pool[CONTROL][rows].toarray()
        return csr(start + (5 if condition.interventions else 0))


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, ArmStore]:
    write_checkpoint(tmp_path)
    loaded = Catalogue([tmp_path]).load("synthetic")
    moved, network, both = (Drawn(loaded, tmp_path, 0, 3, 0.0) for _ in range(3))
    moved.pool = study().populations[0].train
    return {EFFECTS_ONLY: moved, NETWORK_ONLY: network, BOTH: both}


def study(n_test: int = 120) -> Study:
    return Truth().study(n_train=150, n_test=n_test)


def test_conditions_and_their_control_are_compared_by_all_parts(stores: dict[str, ArmStore]):
    here = study()
    control, *perturbed = compared(stores, here, here.populations[0], CONTROL)
    assert (control.name, control.tier) == (CONTROL, "control")
    assert {*control.arms} == {NETWORK_ONLY, TRAINING}
    assert [e.name for e in perturbed] == ["middling", "nothing", "strong", "weak"]
    for each in perturbed:
        assert {*each.arms} == {EFFECTS_ONLY, NETWORK_ONLY, BOTH, UNMOVED, TRAINING}
        assert each.tier == "seen"
        assert each.gene == ""  # no such gene is measured
        assert each.n_cells == 60


def test_each_moved_cell_of_training_starts_from_another_control_cell(
    stores: dict[str, ArmStore],
):
    here = study()
    strong = [*compared(stores, here, here.populations[0], CONTROL)][3]
    moved = strong.arms[EFFECTS_ONLY].toarray()
    assert len(moved) == 120
    assert len(np.unique(moved, axis=0)) == 120
    control = {row.tobytes() for row in here.populations[0].train[CONTROL].toarray()}
    assert {(row - 5).astype(np.int32).tobytes() for row in moved} <= control


def test_conditions_with_too_few_held_out_cells_are_left_out(stores: dict[str, ArmStore]):
    few = study(n_test=FEWEST - 1)
    assert not [*compared(stores, few, few.populations[0], CONTROL)]
    unhalved = study(n_test=2 * FEWEST - 1)
    tiers = {each.tier for each in compared(stores, unhalved, unhalved.populations[0], CONTROL)}
    assert tiers == {"seen"}


def test_the_files_hold_every_draw_under_a_label_with_its_target(tmp_path: Path):
    two = {NETWORK_ONLY: numbered(100), TRAINING: numbered(20)}
    first = Compared("G1", "seen", "G1", numbered(100), two)
    second = Compared("drug", "unseen", "", numbered(100), two | {TRAINING: numbered(60)})
    write_group([first, second], numbered(30), ["G0", "G1"], tmp_path)
    files = {path.stem: anndata.read_h5ad(path) for path in tmp_path.glob("*.h5ad")}
    assert {*files} == {"real", NETWORK_ONLY, TRAINING, HALF, INDEPENDENT}
    labels = {f"{name}|{k}" for name in ("G1", "drug") for k in range(DRAWS)}
    for name, data in files.items():
        counted = data.obs[COLUMN].value_counts()
        assert counted.pop(LABEL) == 30
        expected = {each for each in labels if name != TRAINING or each.startswith("drug")}
        assert counted.to_dict() == dict.fromkeys(expected, 50)
        genes = dict(zip(data.obs[COLUMN], data.obs[GENE], strict=True))
        assert {genes[label] for label in expected if label.startswith("drug")} == {""}
    genes = dict(zip(files["real"].obs[COLUMN], files["real"].obs[GENE], strict=True))
    assert genes["G1|0"] == "G1"


def test_a_checkpoint_with_its_effects_in_the_network_is_refused(tmp_path: Path):
    path, data = write_checkpoint(tmp_path), write_data(tmp_path)
    with pytest.raises(ValueError, match="no parts to compare"):
        command.write(command.loaded(str(path)), data, tmp_path / "out", 1)


def test_the_files_of_a_specification_are_looked_for_in_every_folder(tmp_path: Path):
    checkpoint = command.loaded(str(write_checkpoint(tmp_path)))
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of .*a holds cells\.h5ad"):
        command.data_of(checkpoint, [tmp_path / "a"])
    write_data(tmp_path)
    assert command.data_of(checkpoint, [tmp_path / "a", tmp_path]) == tmp_path


HEAD = {"set": "set", "tier": "seen", "held_out": "120", "cells": "60", "delivered": BOTH}


def scores(*rows: tuple[str, str, str, float]) -> list[dict[str, str]]:
    names = ("arm", "label", "metric", "value")
    return [dict(zip(names, map(str, row), strict=True)) for row in rows]


def example() -> list[tables.Condition]:
    """Three conditions and their control, of which C has no halves."""
    ccc = "cell_cov_ccc"
    values: list[tuple[str, str, str, float]] = []
    for name, shift in (("A", 0.0), ("B", 0.2), ("C", 0.5)):
        for draw in (0, 1):
            label = f"{name}|{draw}"
            values += [
                (EFFECTS_ONLY, label, ccc, 0.5 + shift + draw / 10),
                (BOTH, label, ccc, 0.3 + shift + draw / 10),
            ]
            if name != "C":
                values.append((HALF, label, ccc, 0.9))
    values += [(NETWORK_ONLY, "A|0", ccc, 0.1), (NETWORK_ONLY, "A|1", ccc, float("nan"))]
    for arm in (NETWORK_ONLY, HALF):
        values += [(arm, "control|0", ccc, 0.25), (arm, "control|0", "cell_cov_corr", 0.75)]
    tiers = {"A": "seen", "B": "seen", "C": "seen", "control": "control"}
    return tables.read(
        [{**HEAD, "name": name, "tier": tier} for name, tier in tiers.items()], scores(*values)
    )


def cells_of(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_means_are_over_draws_then_over_conditions_with_another_half():
    lines = {(row[0], row[1]): row[2:] for row in cells_of(tables.means(example()))}
    assert lines["set", EFFECTS_ONLY] == ["2", "0.650", "", ""]
    assert lines["set", f"**{BOTH}**"] == ["2", "0.450", "", ""]
    # A draw without a value is no value of 0.
    assert lines["set", NETWORK_ONLY] == ["1", "0.100", "", ""]
    assert lines["set, control", NETWORK_ONLY][:2] == ["1", "0.250"]


def test_of_control_cells_no_responding_genes_are_compared():
    rows = tables.rows(example())
    control = [row for row in rows if row["condition"] == "control"]
    assert {row["cell_cov_ccc"] for row in control} == {"0.250"}
    assert {row["cell_cov_corr"] for row in control} == {""}
    differences = cells_of(tables.differences(example()))
    assert {row[3] for row in differences if row[0] == "set, control"} == {""}
    assert {row["condition"] for row in rows} == {"A", "B", "C", "control"}
    assert {row["arm"] for row in rows if row["delivered"]} == {BOTH}


def test_differences_are_within_draws_and_their_error_is_of_few_conditions_that_of_draws():
    lines = {row[1]: row[2] for row in cells_of(tables.differences(example())) if row[0] == "set"}
    assert lines[f"{BOTH} less {EFFECTS_ONLY}"] == "-0.200 ± 0.000"
    # Of a single draw the deviation is not known.
    assert lines[f"{NETWORK_ONLY} less {EFFECTS_ONLY}"] == "-0.400 ± nan"
    assert lines[f"{BOTH} less {HALF}"] == "-0.450 ± 0.071"


def test_the_error_over_three_conditions_is_that_of_their_mean():
    halved = [(HALF, f"{name}|0", "cell_cov_ccc", 0.5) for name in "ABC"]
    other = [
        (BOTH, f"{n}|0", "cell_cov_ccc", v) for n, v in zip("ABC", (0.1, 0.2, 0.3), strict=True)
    ]
    conditions = tables.read([{**HEAD, "name": n} for n in "ABC"], scores(*halved, *other))
    (row,) = cells_of(tables.differences(conditions))
    assert row[2] == f"-0.300 ± {0.1 / 3**0.5:.3f}"


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with a scorer that gives every label .5, and what it scored."""
    (tmp_path / "scorer.py").write_text(
        "import pathlib, sys\n"
        "out = pathlib.Path(sys.argv[1], 'scores.csv')\n"
        "out.write_text('version,arm,label,metric,value\\n'"
        "    '0.20.0,another half,A|0,cell_cov_ccc,0.5\\n')\n"
    )
    written: list[str] = []

    def write(checkpoint: object, _data: Path, folder: Path, _workers: int) -> None:
        written.append(checkpoint.name)  # pyright: ignore
        (folder / "0-0").mkdir(parents=True, exist_ok=True)
        (folder / "0-0" / "real.h5ad").touch()
        with (folder / "conditions.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", *HEAD])
            writer.writeheader()
            writer.writerow({**HEAD, "set": checkpoint.name, "name": "A"})  # pyright: ignore

    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr(command, "write", write)
    monkeypatch.setattr(command, "python_of", lambda *_: Path(sys.executable))
    return written


def test_only_groups_with_an_arm_without_scores_are_scored(tmp_path: Path):
    for name, arms in (("a", ["both"]), ("b", ["both", "another half"]), ("c", ["both"])):
        (tmp_path / name).mkdir()
        for arm in ("real", *arms):
            (tmp_path / name / f"{arm}.h5ad").touch()
        if name != "c":
            rows = "version,arm,label,metric,value\n0.20.0,both,A|0,cell_cov_ccc,0.5\n"
            (tmp_path / name / "scores.csv").write_text(rows)
    assert [path.name for path in command.unscored(tmp_path)] == ["b", "c"]


def test_the_command_scores_and_keeps_the_rows_of_other_checkpoints(
    tmp_path: Path, scored: list[str]
):
    checkpoint, data = write_checkpoint(tmp_path), write_data(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    rows = [{**dict.fromkeys(tables.rows(example())[0], "x"), "set": "other"}]
    command.merge(out / command.TABLE, "other", rows)
    arguments = (checkpoint, "--data", data, "--out", out)
    result = CliRunner().invoke(command.main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert scored == ["synthetic"]
    assert "| synthetic | another half | 1 | 0.500 |" in result.output
    with (out / command.TABLE).open(newline="") as file:
        kept = [*csv.DictReader(file)]
    assert [(row["set"], row["arm"]) for row in kept] == [("other", "x"), ("synthetic", HALF)]
    # Again: the rows of a checkpoint are replaced.
    CliRunner().invoke(command.main, [*map(str, arguments)], catch_exceptions=False)
    assert len((out / command.TABLE).read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.skipif(not ENVS, reason="LINGSHU_PEER_ENVS names no folder of environments")
def test_the_package_prefers_another_half_to_independent_genes(tmp_path: Path):
    genes = [f"G{i}" for i in range(30)]
    arms = {NETWORK_ONLY: linked(200, 2, strength=0.2), UNMOVED: linked(200, 3)}
    few = Compared("few", "seen", "", linked(60, 4), {NETWORK_ONLY: linked(60, 5)})
    each = Compared("G3", "seen", "G3", linked(200, 1), arms)
    write_group([each, few], linked(80, 6), genes, tmp_path)
    python = python_of("vcc", command.REQUIREMENTS, Path(str(ENVS)))
    run(python, Path(command.__file__).parent / "scorer.py", tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["version"] for row in rows} == {"0.20.0"}
    listed = [{**HEAD, "name": "G3"}, {**HEAD, "name": "few"}]
    scored, alone = tables.read(listed, rows)
    for metric in ("cell_cov_ccc", "cell_cov_corr"):
        half, alike, weaker, without = (
            scored.mean(arm, metric) for arm in (HALF, UNMOVED, NETWORK_ONLY, INDEPENDENT)
        )
        assert half == pytest.approx(alike, abs=0.02), metric
        assert half > weaker + 0.02, metric
        assert weaker > without + 0.1, metric
    assert scored.mean(NETWORK_ONLY, "cell_cov_eig_ratio") < 0.8
    assert alone.mean(NETWORK_ONLY, "cell_cov_corr") is not None
    before = (tmp_path / "scores.csv").read_text()
    run(python, Path(command.__file__).parent / "scorer.py", tmp_path)
    assert (tmp_path / "scores.csv").read_text() == before

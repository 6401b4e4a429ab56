"""What `lingshu data inspect` understands of files as users bring them."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from made_data import adata_of
from scipy import sparse

from lingshu_model.train.__main__ import main as train
from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.inspect.counts import describe
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import name_of, operations, planned
from lingshu_model.train.inspect.show import next_command, options_from, shown
from lingshu_model.train.inspect.targets import Kind, guide_targets, kind_of, separator_of
from lingshu_model.train.inspect.understanding import Understanding

GENES = ["STAT1", "JAK2", "IRF1", "HLA-A", "NKX2-1", "IFNGR1", *(f"S{i}" for i in range(30))]


def looked(adata: anndata.AnnData, folder: Path, **options: Any) -> Understanding:
    adata.write_h5ad(folder / "cells.h5ad")
    return inspect(folder / "cells.h5ad", Options(**options), name="cells")


def cells(labels: Sequence[str], n: int = 240, **columns: Sequence[Any]) -> anndata.AnnData:
    adata = adata_of(n, len(GENES), labels, **columns)
    adata.var_names = GENES
    return adata


def test_gears_labels_are_understood(tmp_path: Path):
    labels = ("ctrl", "STAT1+ctrl", "ctrl+JAK2", "STAT1+JAK2", "JAK2+STAT1", "IRF1+ctrl")
    matches = looked(cells(labels), tmp_path)
    assert matches.perturbation == "condition"
    assert matches.controls == ("ctrl",)
    assert matches.separator == "+"
    assert matches.conditions == {"": 40, "JAK2+STAT1": 80, "IRF1": 40, "JAK2": 40, "STAT1": 40}
    assert matches.kind is not None
    assert matches.kind.name == "knockout"
    assert matches.kind.assumed


def test_scperturb_labels_and_its_hint_of_the_kind_are_understood(tmp_path: Path):
    labels = ("control", "STAT1", "JAK2_STAT1", "JAK2", "HLA-A")
    adata = cells(labels)
    adata.obs = adata.obs.rename(columns={"condition": "perturbation"})
    adata.obs["perturbation_type"] = "CRISPRi"
    adata.obs["nperts"] = [0 if i % 5 == 0 else 1 for i in range(240)]
    matches = looked(adata, tmp_path)
    assert matches.separator == "_"
    assert set(matches.conditions) == {"", "STAT1", "JAK2+STAT1", "JAK2", "HLA-A"}
    assert matches.kind is not None
    assert (matches.kind.name, matches.kind.assumed) == ("crispri", False)


def test_guides_are_joined_by_target(tmp_path: Path):
    labels = ("STAT1_1", "STAT1_2", "JAK2_1", "JAK2_2", "NT_1", "non-targeting_2")
    matches = looked(cells(labels), tmp_path)
    assert matches.controls == ("NT_1", "non-targeting_2")
    assert matches.conditions == {"": 80, "JAK2": 80, "STAT1": 80}
    plan = planned(matches, "cells", "cells.h5ad")
    held = read_cells(plan.spec, tmp_path)
    assert {"+".join(i.target for i in c.interventions) for c in held.conditions} == {
        "",
        "STAT1",
        "JAK2",
    }


def test_of_two_columns_that_of_targets_is_taken_before_that_of_guides(tmp_path: Path):
    guides = ["control", "STAT1_1", "STAT1_2", "JAK2_1", "JAK2_2", "IRF1_1", "IRF1_2"]
    adata = cells(guides, 350, target=[guides[i % 7].split("_")[0] for i in range(350)])
    adata.obs = adata.obs.rename(columns={"condition": "perturbation"})
    assert looked(adata, tmp_path).perturbation == "target"


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        (["DrugA_1", "DrugA_10", "DrugB_1", "DrugB_10"], "treatment"),
        (["IL2_1", "IL2_10", "IL2_100", "IL6_1", "IL6_10"], "cytokine"),
        (["NKX2-1", "HLA-A", "STAT1"], "gene"),
        (["H3-3A", "H3-3B"], "gene"),
    ],
)
def test_doses_and_names_with_numbers_are_no_guides(labels: list[str], column: str):
    assert guide_targets(labels, column, frozenset(GENES)) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["STAT1_i1", "STAT1_i2", "JAK2_i1", "JAK2_i2"], {"STAT1", "JAK2"}),
        (["STAT1g1", "STAT1g2", "JAK2g1", "JAK2g2"], {"STAT1", "JAK2"}),
        (["sgSTAT1_1", "sgJAK2_1"], {"STAT1", "JAK2"}),
        (["STAT1_ACGTACGTACGTACGTACG", "JAK2_TTGTACGTACGTACGTACG"], {"STAT1", "JAK2"}),
        (["STAT1-sg1", "STAT1-sg2", "HLA-A-sg1"], {"STAT1", "HLA-A"}),
        (["ZAP70_1", "ZAP70_2", "LCK_1", "LCK_2"], {"ZAP70", "LCK"}),
    ],
)
def test_usual_forms_of_guides_are_known(labels: list[str], expected: set[str]):
    assert {*guide_targets(labels, "guide", frozenset(GENES)).values()} == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["ctrl", "A+ctrl", "A+B"], "+"),
        (["ctrl", "A", "B", "A|B"], "|"),
        (["ctrl", "STAT1", "JAK2", "JAK2_STAT1"], "_"),
        (["ctrl", "DrugA_10", "DrugB_10"], None),
        (["ctrl", "(+)-JQ1", "JQ1"], None),
        (["ctrl", "HLA-A", "NKX2-1"], None),
        (["ctrl", "cell_cycle", "A"], None),
    ],
)
def test_separators_are_told_from_parts_of_names(labels: list[str], expected: str | None):
    assert separator_of(labels, ["ctrl"], frozenset(GENES)) == expected


@pytest.mark.parametrize(
    ("targets", "controls", "expected"),
    [
        (["STAT1", "JAK2"], ["non-targeting"], "knockout"),
        (["panobinostat"], ["ctrl"], "drug"),
        (["STIM"], ["CTRL"], "cytokine"),
        (["IFNB"], ["untreated"], "cytokine"),
        (["IL2RA", "TNF", "STAT1"], ["NTC"], "knockout"),
        (["TGFBR1"], ["DMSO"], "drug"),
    ],
)
def test_the_kind_follows_from_targets_and_controls(
    targets: list[str], controls: list[str], expected: str
):
    assert kind_of(targets, controls, frozenset(GENES), {}).name == expected


@pytest.mark.parametrize("place", ["X", "layers/counts", "layers/umis", "raw/X"])
def test_raw_counts_are_found_wherever_they_are(tmp_path: Path, place: str):
    adata = cells(("ctrl", "STAT1"))
    if place.startswith("layers/"):
        adata.layers[place.removeprefix("layers/")] = adata.X.copy()
    if place == "raw/X":
        adata.raw = adata.copy()
        adata = adata[:, :20].copy()
    if place != "X":
        adata.X = np.log1p(adata.X.toarray())
    matches = looked(adata, tmp_path)
    assert matches.counts == place
    assert matches.genes == len(GENES)
    assert not matches.fatal
    read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)


def test_without_raw_counts_what_there_is_is_named(tmp_path: Path):
    adata = cells(("ctrl", "STAT1"))
    adata.layers["scaled"] = adata.X.toarray() - 1.5
    adata.X = np.log1p(adata.X.toarray())
    matches = looked(adata, tmp_path)
    assert "no matrix holds raw counts" in matches.fatal[0].what
    assert "X: fractions up to" in matches.fatal[0].what
    assert "layers/scaled: negative" in matches.fatal[0].what


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_values_are_described_the_same_in_every_layout(tmp_path: Path, form: Any):
    adata = cells(("ctrl", "STAT1"))
    dense = adata.X.toarray()
    adata.X = form(dense)
    matches = looked(adata, tmp_path)
    assert matches.depth == pytest.approx(np.median(dense.sum(axis=1)), abs=3)
    assert matches.counts == "X"


def test_values_are_described_by_what_was_done_to_them():
    counts = np.random.default_rng(0).poisson(3.0, (50, 40)).astype(float)
    total = counts.sum(axis=1, keepdims=True)

    def kind(matrix: Any) -> str:
        return describe(matrix[matrix != 0], matrix.sum(axis=1))[0]

    assert kind(counts) == "raw"
    assert kind(counts / total * 1e4) == "normalised"
    assert kind(np.log1p(counts / total * 1e4)) == "logged"
    assert kind(counts - 3.5) == "scaled"
    assert kind(counts * 0) == "empty"
    assert kind(np.where(counts == 2, 2.4, counts)) == "corrected"
    assert kind(np.where(counts == 2, np.nan, counts)) == "broken"


def test_contexts_replicates_and_unknown_labels_are_found(tmp_path: Path):
    n = 480
    types = ["T cell", "B cell", "unknown", "NK cell"]
    adata = cells(
        ("CTRL", "STIM"),
        n,
        cell_type=[types[(i // 2) % 4] for i in range(n)],
        donor=[f"d{(i // 8) % 3}" for i in range(n)],
        barcode=[f"b{i}" for i in range(n)],
        leiden=[str(i % 7) for i in range(n)],
        n_counts=np.arange(n),
    )
    matches = looked(adata, tmp_path)
    assert matches.context == {"cell_type": "obs:cell_type"}
    assert matches.replicate == "donor"
    assert matches.left_out == {"'unknown' in obs['cell_type']": 120}
    assert set(matches.contexts) == {"T cell", "B cell", "NK cell"}
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert len(held) == matches.used == 360
    assert held.replicate is not None


def test_cells_of_unknown_donors_are_counted_apart(tmp_path: Path):
    donors = ["unknown" if i < 30 else f"d{(i // 8) % 3}" for i in range(240)]
    matches = looked(cells(("CTRL", "STIM"), donor=donors), tmp_path)
    assert matches.replicate == "donor"
    assert (matches.replicates, matches.unnamed) == (3, 30)
    assert "replicate     obs['donor']: 3, and 30 cells of none" in matches.lines()


def test_donors_are_contexts_where_nothing_else_is_and_each_has_both_arms(tmp_path: Path):
    adata = cells(("ctrl", "STAT1"), patient=[f"p{(i // 2) % 3}" for i in range(240)])
    del adata.obs["cell_type"]
    matches = looked(adata, tmp_path)
    assert matches.context == {"patient": "obs:patient"}
    assert matches.replicate is None


def test_animals_of_one_arm_each_are_replicates(tmp_path: Path):
    adata = cells(("ctrl", "STAT1"), animal=[f"a{i % 2}{(i // 2) % 2}" for i in range(240)])
    del adata.obs["cell_type"]
    matches = looked(adata, tmp_path)
    assert matches.context == {"sample": "cells"}
    assert matches.replicate == "animal"


def test_a_stimulation_beside_the_perturbation_is_a_context(tmp_path: Path):
    stimulus = ["stimulated" if (i // 3) % 2 else "unstimulated" for i in range(240)]
    adata = cells(("non-targeting", "STAT1", "JAK2"), perturbation_2=stimulus)
    adata.obs["cell_type"] = "T"
    matches = looked(adata, tmp_path)
    assert matches.perturbation == "condition"
    assert "perturbation_2" in matches.context


def test_missing_labels_are_counted_and_never_a_context(tmp_path: Path):
    types = pd.Categorical([None if i < 40 else "T" for i in range(240)])
    matches = looked(cells(("ctrl", "STAT1"), cell_type=types), tmp_path)
    assert matches.left_out == {"without a label in obs['cell_type']": 40}
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert {dict(c.context)["cell_type"] for c in held.conditions} == {"T"}


def test_contexts_without_control_cells_are_left_out_and_said(tmp_path: Path):
    types = ["U" if i % 2 and (i // 2) % 2 else "T" for i in range(240)]
    matches = looked(cells(("ctrl", "STAT1"), cell_type=types), tmp_path, context=["cell_type"])
    assert matches.left_out == {"in contexts without control cells": 60}
    assert any("1 of 2 contexts have no control cells" in p.what for p in matches.problems)
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert len(held) == matches.used == 180


def test_columns_of_ids_and_numbers_are_no_perturbation(tmp_path: Path):
    adata = adata_of(240, 24, ["x"], disease=["normal" if i % 2 else "flu" for i in range(240)])
    adata.obs["control"] = [i % 2 for i in range(240)]
    matches = looked(adata, tmp_path)
    assert matches.perturbation is None
    assert "names a perturbation and control cells" in matches.fatal[0].what


def test_doses_are_pooled_with_a_word_unless_they_are_named(tmp_path: Path):
    labels = ("vehicle", "DrugA", "DrugB")
    dose = [0.0 if i % 3 == 0 else 10.0 ** (i % 2) for i in range(240)]
    adata = cells(labels, dose_value=dose)
    matches = looked(adata, tmp_path)
    assert any("--dose dose_value" in p.remedy for p in matches.problems)
    named = looked(adata, tmp_path, dose="dose_value")
    assert not any("--dose" in p.remedy for p in named.problems)
    held = read_cells(planned(named, "cells", "cells.h5ad").spec, tmp_path)
    assert {i.dose for c in held.conditions for i in c.interventions} == {1.0, 10.0}
    assert looked(cells(labels, dose=[-1.0] * 240), tmp_path, dose="dose").fatal


def test_what_the_user_says_goes_before_what_is_proposed(tmp_path: Path):
    adata = cells(("ctrl", "STAT1"), other=["NT" if i % 3 else "JAK2" for i in range(240)])
    matches = looked(
        adata, tmp_path, perturbation="other", control=["NT"], kind="crispra",
        context=["cell_line=K562", "cell_type"],
    )  # fmt: skip
    assert matches.perturbation == "other"
    assert matches.kind is not None
    assert matches.kind.name == "crispra"
    assert matches.context == {"cell_line": "K562", "cell_type": "obs:cell_type"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perturbation": "conditoin"}, "did you mean 'condition'"),
        ({"control": ["Ctrl"]}, "no cells called 'Ctrl' \\(did you mean 'ctrl'\\?\\)"),
        ({"context": ["celltype"]}, "no obs column 'celltype'"),
        ({"context": ["=x"]}, "neither a column of obs nor FIELD=VALUE"),
        ({"counts": "layers/raw"}, "no matrix 'layers/raw'; it has X"),
        ({"gene_names": "symbol"}, "no var column 'symbol'"),
        ({"replicate": "donor"}, "no obs column 'donor'"),
    ],
)
def test_what_the_user_says_wrongly_is_named(tmp_path: Path, options: dict[str, Any], words: str):
    with pytest.raises(DataError, match=words):
        looked(cells(("ctrl", "STAT1")), tmp_path, **options)


def test_symbols_in_a_column_are_used_where_the_index_has_ids(tmp_path: Path):
    adata = cells(("ctrl", "STAT1", "JAK2"))
    adata.var["gene_symbols"] = GENES
    adata.var_names = [f"ENSMUSG{i:011d}.{i % 4}" for i in range(len(GENES))]
    matches = looked(adata, tmp_path)
    assert matches.gene_column == "gene_symbols"
    assert "mouse" in matches.gene_words
    assert not matches.problems
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert held.panel[0] == "STAT1"


def test_versions_of_ids_are_left_out(tmp_path: Path):
    adata = cells(("ctrl", "panobinostat"))
    adata.var_names = [f"ENSG{i:011d}.{i % 4}" for i in range(len(GENES))]
    matches = looked(adata, tmp_path)
    assert "human, with versions" in matches.gene_words
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert held.panel[1] == "ENSG00000000001"


def test_it_is_said_in_ten_lines_and_as_a_command(tmp_path: Path):
    matches = looked(cells(("ctrl", "STAT1")), tmp_path)
    assert len(matches.lines()) == 9  # and the model
    assert shown(matches).startswith("file")
    words = next_command(Path("my cells.h5ad"), matches)
    assert words == (
        "lingshu train 'my cells.h5ad' --perturbation condition --control ctrl "
        "--context cell_type=T --kind knockout"
    )


def parsed(words: str) -> Options:
    """Return the options of a printed command, by the parser of `lingshu train`."""
    name, command, *arguments = shlex.split(words)
    assert (name, command) == ("lingshu", "train")
    return options_from(train.make_context("train", arguments).params)


GIVEN = {
    "time and dose": {"time": "hours", "dose": "dose_value"},
    "counts": {"counts": "X"},
    "a layer and names": {"counts": "layers/counts", "gene_names": "symbol"},
    "no combinations": {"separator": ""},
    "a separator": {"separator": "+"},
    "a context": {"context": ["line=K 562", "kind=obs:cell_type"], "replicate": "donor"},
    "some controls": {"control": ["NT_1", "NT_2", "NT_3", "NT_4", "NT_5"], "kind": "crispra"},
    "nothing": {},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_the_command_says_all_that_was_understood_or_given(tmp_path: Path, given: dict[str, Any]):
    controls = [f"NT_{i}" for i in range(1, 7)]
    labels = (*controls, "STAT1", "JAK2", "STAT1+JAK2")
    n = 360
    adata = cells(
        labels,
        n,
        hours=[str(6 * (i // 9 % 2)) for i in range(n)],
        dose_value=[float(1 + i // 9 % 2) for i in range(n)],
        donor=[f"d{i // 18 % 3}" for i in range(n)],
    )
    adata.var["symbol"] = GENES
    adata.layers["counts"] = adata.X.copy()
    matches = looked(adata, tmp_path, **given)
    file = tmp_path / "cells.h5ad"
    options = parsed(next_command(file, matches, Options(**given)))
    assert inspect(file, options, name="cells") == replace(
        matches, kind=Kind(matches.kind.name, "as you say", assumed=False)
    )
    for name, value in given.items():
        said = getattr(options, name)
        assert said == value or list(said) == value
    assert len(options.control) == len(given.get("control", controls))


def test_a_command_for_a_file_that_is_refused_repeats_what_was_given(tmp_path: Path):
    adata = adata_of(240, 24, ["x"])
    given: dict[str, Any] = {
        "context": ["cell_type"], "kind": "drug", "replicate": "cell_type", "dose": "cell_type",
        "time": "cell_type", "counts": "X", "separator": "|",
    }  # fmt: skip
    matches = looked(adata, tmp_path, **given)
    assert matches.fatal
    options = parsed(next_command(tmp_path / "cells.h5ad", matches, Options(**given)))
    assert {name: getattr(options, name) for name in given} == {**given, "context": ("cell_type",)}


def test_a_file_whose_name_begins_with_a_hyphen_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    cells(("ctrl", "STAT1")).write_h5ad(tmp_path / "-cells.h5ad")
    matches = inspect(Path("-cells.h5ad"))
    assert parsed(next_command(Path("-cells.h5ad"), matches)).perturbation == "condition"


def test_cells_without_a_time_are_left_out_as_training_does(tmp_path: Path):
    times = pd.Categorical(["6", "24", None, "24"] * 60)
    adata = cells(("ctrl", "ctrl", "STAT1", "STAT1", "JAK2"), time=times)
    matches = looked(adata, tmp_path, time="time", context=["cell_type"])
    assert matches.left_out == {"without a label in obs['time']": 60}
    assert {name: sum(n) for name, n in matches.contexts.items()} == {"T, 24": 120, "T, 6": 60}
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert len(held) == matches.used == sum(matches.conditions.values()) == 180


def test_contexts_whose_labels_hold_commas_are_counted_apart(tmp_path: Path):
    pairs = [("a, b", "c"), ("a", "b, c")]
    adata = cells(
        ("ctrl", "STAT1"), tissue=[pairs[i // 2 % 2][0] for i in range(240)],
        organ=[pairs[i // 2 % 2][1] for i in range(240)],
    )  # fmt: skip
    matches = looked(adata, tmp_path, context=["tissue", "organ"])
    assert [*matches.contexts.values()] == [(60, 60), (60, 60)]


def test_controls_alone_have_no_kind_and_can_be_trained_on(tmp_path: Path):
    matches = looked(cells(("ctrl",)), tmp_path, perturbation="condition", control=["ctrl"])
    assert matches.kind is None
    assert "no perturbed cells" in shown(matches)
    assert not matches.fatal
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert len(held) == 240
    # A column that says the kind is believed, and so is the user.
    assert kind_of([], ["ctrl"], frozenset(GENES), {"type": ["CRISPRi"]}).name == "crispri"
    assert looked(cells(("ctrl",)), tmp_path, control=["ctrl"], perturbation="condition",
                  kind="drug").kind.name == "drug"  # fmt: skip


def test_the_plan_is_the_same_each_time_and_fits_its_minutes(tmp_path: Path):
    matches = looked(cells(("ctrl", "STAT1")), tmp_path)
    intervention, two = (planned(matches, "cells", "cells.h5ad") for _ in range(2))
    assert intervention.spec == two.spec
    few = planned(matches, "cells", "cells.h5ad", minutes=0.1).spec.epochs
    assert few <= intervention.spec.epochs
    assert operations("lingshu-1m-s13", 2000) > operations("lingshu-1m-s13", 1000)
    assert planned(matches, "cells", "cells.h5ad", recipe="effects").spec.network is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Data (final)", "my-data-final"), ("ÄÖ", "model"), ("a" * 90, "a" * 64), ("x_1", "x-1")],
)
def test_a_name_is_made_of_the_file(text: str, name: str):
    assert name_of(text) == name


def test_the_command_loads_no_torch_and_prints_json(tmp_path: Path):
    cells(("ctrl", "STAT1")).write_h5ad(tmp_path / "cells.h5ad")
    code = (
        "import sys, runpy\nsys.argv = ['x', sys.argv[1], '--json']\n"
        "try:\n runpy.run_module('lingshu_model.train.inspect', run_name='__main__')\n"
        "finally:\n print('torch' in sys.modules, file=sys.stderr)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "cells.h5ad")]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert said.stderr.strip() == "False"
    matches = json.loads(said.stdout)
    assert matches["status"] == "succeeded"
    assert matches["perturbation"] == "condition"
    assert matches["next_step"].startswith("lingshu train ")


def test_human_ids_go_by_their_symbols(tmp_path: Path):
    adata = cells(("non-targeting", "STAT1", "JAK2"))
    known = ["ENSG00000115415.21", "ENSG00000096968", "ENSG00000188290.1"]
    adata.var_names = [*known, *(f"ENSG9{i:010d}" for i in range(len(GENES) - 3))]
    matches = looked(adata, tmp_path)
    assert "3 by their HGNC symbols" in matches.gene_words
    assert not matches.problems
    held = read_cells(planned(matches, "cells", "cells.h5ad").spec, tmp_path)
    assert held.panel[:4] == ("STAT1", "JAK2", "HES4", "ENSG90000000000")
    assert np.array_equal(held.counts(), adata.X.toarray())

"""Labels that spell genes otherwise, controls in combinations, replicates that go with an arm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import pytest
from made_data import adata_of, seen

from lingshu_model.train.data.controls import means_control
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import planned
from lingshu_model.train.inspect.understanding import Understanding

GENES = ["STAT1", "JAK2", "IRF1", *(f"S{i}" for i in range(20))]


def cells(labels: Sequence[str], n: int = 120, **columns: Sequence[Any]) -> anndata.AnnData:
    adata = adata_of(n, len(GENES), labels, **columns)
    adata.var_names = GENES
    return adata


def looked(adata: anndata.AnnData, folder: Path, **options: Any) -> Understanding:
    adata.write_h5ad(folder / "cells.h5ad")
    return inspect(folder / "cells.h5ad", Options(**options), name="cells")


def trained_on(matches: Understanding, folder: Path) -> dict[str, int]:
    spec = planned(matches, "cells", "cells.h5ad", recipe="effects").spec
    return {name.split(": ")[1]: n for name, n in seen(read_cells(spec, folder)).items()}


CONTROLS_IN_PARTS = [
    (("NegCtrl0_NegCtrl0", "STAT1_NegCtrl0", "NegCtrl0_JAK2", "STAT1_JAK2"), "_"),
    (("NT+NT", "STAT1+NT", "NT+JAK2", "JAK2+STAT1"), "+"),
    (("control", "STAT1|non-targeting", "JAK2|safe-targeting", "JAK2|STAT1"), "|"),
    (("ctrl", "STAT1+ctrl", "ctrl+JAK2", "STAT1+JAK2"), "+"),
]


@pytest.mark.parametrize(("labels", "separator"), CONTROLS_IN_PARTS)
def test_a_control_guide_beside_a_target_is_no_target(
    tmp_path: Path, labels: Sequence[str], separator: str
):
    matches = looked(cells(labels), tmp_path)
    assert matches.separator == separator
    assert not matches.fatal
    expected = {"": 30, "JAK2": 30, "JAK2+STAT1": 30, "STAT1": 30}
    assert matches.conditions == expected
    assert trained_on(matches, tmp_path) == expected


def test_two_controls_in_a_label_are_control_and_a_control_with_a_gene_is_not():
    assert all(map(means_control, ("NegCtrl0_NegCtrl10", "NT|NT", "ctrl+ctrl", "NT_safe")))
    assert not any(map(means_control, ("NegCtrl0_STAT1", "NT+JAK2", "A_B")))


@pytest.mark.parametrize(
    "labels",
    [("CTRL", "stat1", "Jak2"), ("NT_1", "stat1_1", "stat1_2", "Jak2_1")],
    ids=["targets", "guides"],
)
def test_a_label_that_differs_from_a_gene_in_capitals_is_that_gene(
    tmp_path: Path, labels: Sequence[str]
):
    matches = looked(cells(labels), tmp_path)
    assert {*matches.conditions} == {"", "JAK2", "STAT1"}
    assert matches.kind is not None
    assert matches.kind.name == "knockout"
    (note,) = [str(p) for p in matches.problems if "called by the genes" in p.what]
    assert "is 'STAT1'" in note
    assert {*trained_on(matches, tmp_path)} == {"", "JAK2", "STAT1"}


def test_a_drug_that_is_spelt_like_a_gene_stays_what_it_is(tmp_path: Path):
    labels = ("DMSO", "stat1", "nutlin", "torin", "dasatinib")
    matches = looked(cells(labels), tmp_path)
    assert {*matches.conditions} == {"", *labels[1:]}
    said = looked(cells(("DMSO", "stat1", "jak2")), tmp_path, kind="drug")
    assert {*said.conditions} == {"", "stat1", "jak2"}


def test_two_genes_that_differ_in_capitals_alone_are_not_confused(tmp_path: Path):
    adata = cells(("ctrl", "stat1", "JAK2"))
    adata.var_names = ["STAT1", "JAK2", "Stat1", *GENES[3:]]
    assert {*looked(adata, tmp_path).conditions} == {"", "JAK2", "stat1"}


HUMAN = ["ENSG00000115415", "ENSG00000096968"]
MOUSE = ["ENSMUSG00000115415", "ENSMUSG00000096968"]


@pytest.mark.parametrize("symbols", [True, False], ids=["symbols in a column", "ids alone"])
@pytest.mark.parametrize("ids", [HUMAN, MOUSE], ids=["human", "mouse"])
@pytest.mark.parametrize("version", ["", ".7"])
def test_targets_that_are_ids_are_the_genes_with_these_ids(
    tmp_path: Path, ids: list[str], version: str, symbols: bool
):
    adata = cells(("ctrl", ids[0], f"{ids[1]}{version}"))
    prefix = ids[0].split("0")[0]
    rest = [f"{prefix}{90000000 + i:011d}.1" for i in range(len(GENES) - 2)]
    adata.var_names = [*(f"{each}.21" for each in ids), *rest]
    if symbols:
        adata.var["gene_symbol"] = GENES
    matches = looked(adata, tmp_path)
    expected = {"STAT1", "JAK2"} if symbols or ids is HUMAN else {*ids}
    assert {*matches.conditions} == {"", *expected}
    assert matches.kind is not None
    assert matches.kind.name == "knockout"
    assert not any("is a gene of the file" in p.what for p in matches.problems)
    spec = planned(matches, "cells", "cells.h5ad", recipe="effects").spec
    held = read_cells(spec, tmp_path)
    assert expected <= {*held.panel}
    assert {i.target for c in held.conditions for i in c.interventions} == expected


def batches(design: str) -> list[str]:
    """A batch for each of 120 cells, whose conditions are control, STAT1 and JAK2 in turn."""
    within = {"alone": [0], "nested": [0, 1], "one control": [0, 1]}.get(design)
    if within is None:
        return [f"b{i // 3 % 2}" for i in range(120)]
    names: list[str] = []
    for i in range(120):
        part = within[i // 3 % len(within)]
        names.append(f"b{i % 3}-{0 if design == 'one control' and i % 3 == 0 else part}")
    return names


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ("alone", "2 conditions have one alone"),
        ("one control", "one label for all control cells"),
        ("nested", None),
        ("crossed", None),
    ],
)
def test_replicates_that_go_with_the_perturbation_are_said(
    tmp_path: Path, design: str, words: str | None
):
    matches = looked(cells(("ctrl", "STAT1", "JAK2"), batch=batches(design)), tmp_path)
    assert matches.replicate == "batch"
    notes = [p.what for p in matches.problems if "obs['batch']" in p.what]
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]

"""Columns and labels as published files have them: what was done, to which cells, and what not."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from made_data import adata_of, read_file

from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.data.controls import may_mean_control, means_control
from lingshu_model.train.inspect.columns import Column, perturbation_column
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import planned
from lingshu_model.train.inspect.targets import kind_of
from lingshu_model.train.inspect.understanding import Understanding


def seen(folder: Path, labels: list[Any], n: int = 240, **columns: Any) -> Understanding:
    """Return what is understood of cells with these labels in turn."""
    said = columns.pop("options", None)
    adata_of(n, labels=labels, **columns).write_h5ad(folder / "d.h5ad")
    return inspect(folder / "d.h5ad", said)


@pytest.mark.parametrize("label", ["Doublet", "multiplet", "unassigned", "Multiple guides", "?"])
def test_cells_without_a_call_are_no_condition(tmp_path: Path, label: str):
    """They are left out with a count, and the specification leaves them out too."""
    labels = ["NT", "STAT1", "JAK2", label]
    understanding = seen(tmp_path, labels)
    assert label not in understanding.conditions
    assert understanding.left_out == {f"{label!r} in obs['condition']": 60}
    assert understanding.used == 180
    spec = planned(understanding, "d", "d.h5ad", recipe="effects").spec
    source = spec.sources[0].model_dump(exclude_defaults=True)
    rule = source.pop("perturbation")
    cells, _ = read_file(tmp_path, source=source, rule=rule, control=rule["control"])
    assert len(cells) == 180
    assert label not in {i.target for c in cells.conditions for i in c.interventions}


def test_a_negative_cell_is_one_without_a_tag_only_beside_doublets(tmp_path: Path):
    """Elsewhere it may be the control, and it is said that it is trained on."""
    with_tags = seen(tmp_path, ["NT", "STAT1", "Negative", "Doublet"])
    assert [*with_tags.conditions] == ["", "STAT1"]
    assert not any("may be a control too" in p.what for p in with_tags.problems)
    without = seen(tmp_path, ["NT", "STAT1", "JAK2", "Negative"])
    assert "Negative" in without.conditions
    assert any("'Negative' may be a control too" in p.what for p in without.problems)


def test_a_control_that_reads_like_no_call_is_what_the_user_says(tmp_path: Path):
    """What is named is known."""
    options = Options(perturbation="condition", control=("unassigned",))
    understanding = seen(tmp_path, ["unassigned", "STAT1"], options=options)
    assert understanding.conditions == {"": 120, "STAT1": 120}


def test_the_control_that_the_user_names_finds_its_column(tmp_path: Path):
    """A label in another language is a control where the user says so."""
    options = Options(control=("Kontrolle",))
    n = 240
    columns = {"anzucht": ["Kontrolle", "IL-6"] * (n // 2), "condition2": ["x", "y"] * (n // 2)}
    understanding = seen(tmp_path, ["x", "y"], n, options=options, **columns)
    assert understanding.perturbation == "anzucht"
    assert understanding.conditions == {"": 120, "IL-6": 120}


def test_a_column_with_a_telling_name_is_proposed_where_its_control_is_not_known(tmp_path: Path):
    """With its labels, and the cells that have none."""
    adata = adata_of(labels=["AB", "tp53", "nf1"])
    adata.obs["genotype"] = adata.obs.pop("condition")
    adata.obs.loc[adata.obs_names[:30], "genotype"] = None
    adata.write_h5ad(tmp_path / "d.h5ad")
    (problem,) = inspect(tmp_path / "d.h5ad").fatal
    assert "obs['genotype'] may be meant, with 'AB', 'nf1', 'tp53', and 30 cells" in problem.what
    assert "--perturbation genotype --control" in problem.remedy


def test_truth_values_are_a_perturbation_where_their_name_says_so(tmp_path: Path):
    """The target has the name of the column, and not `True`."""
    truth = [i % 2 == 0 for i in range(240)]
    understanding = seen(tmp_path, ["x"], stimulated=truth, doublet=truth)
    assert understanding.perturbation == "stimulated"
    assert understanding.controls == ("False",)
    assert understanding.conditions == {"": 120, "stimulated": 120}
    assert understanding.kind is not None
    assert understanding.kind.name == "cytokine"
    assert seen(tmp_path, ["x"], doublet=truth, in_tissue=truth).perturbation is None


def _column(name: str, labels: list[str]) -> Column:
    return Column.of(pd.DataFrame({name: labels}), name)


def test_drugs_are_meant_and_not_their_mechanisms():
    """A target of guides is coarser and is meant; a target of drugs is not what was done."""
    drugs = ["Vehicle", "Panobinostat", "Dacinostat", "Trametinib"] * 30
    mechanisms = ["Vehicle", "HDAC", "HDAC", "MEK"] * 30
    columns = {n: _column(n, x) for n, x in (("product_name", drugs), ("target", mechanisms))}
    assert perturbation_column(columns, frozenset()) == "product_name"
    guides = ["NT", "ZAP70_1", "ZAP70_2", "LCK_1"] * 30
    genes = ["NT", "ZAP70", "ZAP70", "LCK"] * 30
    columns = {n: _column(n, x) for n, x in (("perturbation", guides), ("target", genes))}
    assert perturbation_column(columns, frozenset()) == "target"
    barcodes = ["NT", "g0017", "g0018", "g0020"] * 30
    columns = {n: _column(n, x) for n, x in (("guide_id", barcodes), ("target", genes))}
    assert perturbation_column(columns, frozenset()) == "target"


@pytest.mark.parametrize(
    "label",
    ["uninjected", "NegCtrl0__NegCtrl0", "Non-Targeting Control Guide For Human_0001", "parental",
     "INTERGENIC1144056", "siControl", "shScramble", "NO_SITE_101", "veh"],
)  # fmt: skip
def test_further_names_of_controls_are_known(label: str):
    """As in files of zebrafish, of CRISPRa pairs, and of public guide libraries."""
    assert means_control(label)


@pytest.mark.parametrize("label", ["SIRT1", "SHH", "FOR", "PARENT", "NEGR1"])
def test_names_that_begin_like_controls_are_none(label: str):
    """A prefix or a tail alone makes no control."""
    assert not means_control(label)
    assert not may_mean_control(label)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["WT", "STAT1-KO", "JAK2-KO"], {"STAT1", "JAK2"}),
        (["NT", "sgSTAT1", "sgJAK2"], {"STAT1", "JAK2"}),
        (["wt", "STAT1 -/-", "JAK2 -/-"], {"STAT1", "JAK2"}),
        (["ctrl", "CRISPRi_STAT1", "CRISPRi_JAK2"], {"STAT1", "JAK2"}),
        # GCAT is another gene than CAT, and G4 another than 4.
        (["NT", "GCAT", "SHCAT", "JAK2", "STAT1"], {"GCAT", "SHCAT", "JAK2", "STAT1"}),
    ],
)
def test_a_word_for_what_was_done_is_no_part_of_a_gene(
    tmp_path: Path, labels: list[str], expected: set[str]
):
    """The label is the gene that is left without it, and a note says so."""
    adata = adata_of(240, labels=labels)
    adata.var_names = ["STAT1", "JAK2", "CAT", *adata.var_names[3:]]
    adata.write_h5ad(tmp_path / "d.h5ad")
    understanding = inspect(tmp_path / "d.h5ad")
    assert {*understanding.conditions} - {""} == expected


@pytest.mark.parametrize(
    ("targets", "controls", "kind"),
    [
        (["Tumor"], ["Normal"], "drug"),
        (["Estradiol", "Insulin"], ["control"], "drug"),
        (["Stat1", "Insulin"], ["control"], "knockout"),
        (["Tumor"], ["NT"], "knockout"),
        (["IFN-beta", "IL-6"], ["control"], "cytokine"),
        (["IFN-beta", "IL-6"], ["sgNT-3"], "drug"),
    ],
)
def test_words_are_no_genes_because_they_begin_with_a_capital(
    targets: list[str], controls: list[str], kind: str
):
    """Unless a gene of the file is among them, or control cells have a guide."""
    understood = kind_of(targets, controls, frozenset({"Stat1"}), {})
    assert understood is not None
    assert understood.name == kind


@pytest.mark.parametrize("values", [["1 uM", "10 nM"], ["24h", "6h"], ["D3", "D7"]])
def test_amounts_with_units_are_not_pooled_in_silence(tmp_path: Path, values: list[str]):
    """They are pooled, and it is said, as of numbers."""
    name = "dose" if "M" in values[0] else "timepoint"
    amounts = [values[(i // 4) % 2] if i % 2 else "none" for i in range(240)]
    understanding = seen(tmp_path, ["ctrl", "IL-6"], **{name: amounts})
    assert any(f"obs[{name!r}]" in p.what and "pooled" in p.what for p in understanding.problems)


def test_times_without_controls_are_refused_because_of_the_times(tmp_path: Path):
    """Not because of the context, which the user did not name."""
    times = [0 if i % 2 == 0 else 6 + 18 * (i % 4 == 1) for i in range(240)]
    options = Options(time="hours")
    understanding = seen(tmp_path, ["ctrl", "IL-6"], hours=times, options=options)
    (problem,) = understanding.fatal
    assert "--time" in problem.remedy
    assert "hours" in problem.remedy


def _hdf5(path: Path, *groups: str) -> None:
    with h5py.File(path, "w") as file:
        for group in groups:
            file.create_group(group)


@pytest.mark.parametrize(
    ("name", "groups", "words"),
    [
        ("d.h5mu", ["mod/prot", "mod/rna"], "mudata.read_h5mu(file)['rna']"),
        ("d.h5", ["matrix/features"], "read_10x_h5"),
        ("d.loom", ["matrix", "row_attrs", "col_attrs"], "read_loom"),
        ("d.h5seurat", ["assays", "meta.data"], "Seurat"),
    ],
)
def test_files_of_other_programs_are_named_with_what_converts_them(
    tmp_path: Path, name: str, groups: list[str], words: str
):
    """HDF5 is common to them; what they are shows in their groups."""
    _hdf5(tmp_path / name, *groups)
    with pytest.raises(DataError, match=r"is a") as error:
        inspect(tmp_path / name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", b"gene,c1\n", "read_csv"),
        ("d.mtx.gz", b"\x1f\x8b\x00", "read_mtx"),
        ("d.h5ad.gz", b"\x1f\x8b\x00", "gunzip d.h5ad.gz"),
        ("d.rds", b"\x1f\x8b\x00", "writeH5AD"),
    ],
)
def test_files_that_are_no_hdf5_are_refused_with_what_converts_them(
    tmp_path: Path, name: str, content: bytes, words: str
):
    """By their ending, and by their first bytes where they are compressed."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        inspect(tmp_path / name)
    assert words in str(error.value)


def test_a_folder_of_10x_is_refused_with_what_converts_it(tmp_path: Path):
    """It is no zarr store."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/matrix.mtx.gz").write_bytes(b"")
    with pytest.raises(DataError, match="read_10x_mtx"):
        inspect(tmp_path / "m")


def test_labels_taken_away_leave_the_others_where_they_were():
    """Numbers of labels change, labels of cells do not."""
    column = _column("x", ["b", "a", "c", "b"]).without(["b"])
    assert column.labels == ("a", "c")
    assert np.array_equal(column.codes, [-1, 0, 1, -1])


@pytest.mark.parametrize("targets", [["IFN-β", "IL-1β"], ["IL-1β"], ["TGFβ1", "IFNγ"]])
def test_cytokines_with_greek_letters_are_cytokines(targets: list[str]):
    """As they are written in most papers."""
    understood = kind_of(targets, ["Medium"], frozenset(), {})
    assert understood is not None
    assert understood.name == "cytokine"


def test_an_annotation_that_is_no_context_is_not_left_aside_in_silence(tmp_path: Path):
    """Cells are pooled over its labels, whose shares may differ between the arms."""
    types = [f"t{i % 60}" for i in range(240)]
    understanding = seen(tmp_path, ["NT", "STAT1"], cell_type=types)
    assert understanding.context == {"sample": "d"}
    (note,) = [p for p in understanding.problems if "obs['cell_type'] has 60 labels" in p.what]
    assert "--context cell_type" in note.remedy
    said = Options(context=("line=K562",))
    understanding = seen(tmp_path, ["NT", "STAT1"], cell_type=types, options=said)
    assert not any("60 labels" in p.what for p in understanding.problems)


def test_few_control_cells_are_said_to_be_in_every_effect(tmp_path: Path):
    """And conditions with few cells are counted without them."""
    adata = adata_of(240, labels=["NT", "STAT1", "JAK2"])
    adata = adata[78:].copy()
    adata.obs["condition"] = ["NT"] * 6 + ["STAT1"] * 150 + ["JAK2"] * 6
    adata.write_h5ad(tmp_path / "d.h5ad")
    said = [p.what for p in inspect(tmp_path / "d.h5ad").problems]
    assert any(what.startswith("there are 6 control cells") for what in said)
    assert any("1 of 2 conditions have fewer than 30 cells (JAK2 (6))" in what for what in said)


def test_ones_alone_are_said_to_be_no_counts(tmp_path: Path):
    """In as many genes of a cell as never have one count each."""
    adata = adata_of(genes=150)
    adata.X = (adata.X > 0).astype(np.float32)
    adata.write_h5ad(tmp_path / "d.h5ad")
    assert any("every count of X is 1" in p.what for p in inspect(tmp_path / "d.h5ad").problems)

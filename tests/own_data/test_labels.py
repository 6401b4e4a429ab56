"""Labels of a user's cells: what is missing, misspelt or a combination."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_data import adata_of, read, read_file, seen

from lingshu_model.train.data.controls import may_mean_control, means_control
from lingshu_model.train.data.sources import DataError


@pytest.mark.parametrize("missing", [None, np.nan, "", "  ", "nan", "NA", "<NA>"])
@pytest.mark.parametrize(("column", "categorical"), [("cell_type", True), ("condition", False)])
def test_cells_without_a_label_are_left_out_and_counted(
    tmp_path: Path, missing: Any, categorical: bool, column: str
):
    adata = adata_of()
    values = adata.obs[column].astype(object)
    values.iloc[:40] = missing
    adata.obs[column] = values.astype("category") if categorical else values
    cells, notes = read(adata, tmp_path)
    assert len(cells) == 80
    assert not [c for c in cells.conditions if "nan" in str(c).casefold() or "''" in str(c)]
    assert any(f"40 of 120 cells have no label in obs['{column}']" in note for note in notes)


def test_a_column_of_missing_labels_alone_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"no cell that is left has a label in obs\['cell_type'\]"):
        read(adata_of(cell_type=[""] * 120), tmp_path)


def test_a_label_that_reads_like_missing_is_kept_where_it_is_named(tmp_path: Path):
    cells, notes = read(adata_of(labels=("None", "A")), tmp_path, control="None")
    assert seen(cells) == {"T: ": 60, "T: A": 60}
    assert not notes


def test_white_space_round_labels_is_cut(tmp_path: Path):
    adata = adata_of(labels=(" ctrl", "ctrl", "A ", "A+ctrl ", "A + B"))
    cells, _ = read(adata, tmp_path, rule={"separator": "+"})
    assert seen(cells) == {"T: ": 48, "T: A": 48, "T: A+B": 24}


def test_combinations_do_not_depend_on_the_order_of_their_parts(tmp_path: Path):
    adata = adata_of(labels=("ctrl", "A+ctrl", "ctrl+A", "A+B", "B+A", "ctrl+ctrl"))
    cells, _ = read(adata, tmp_path, rule={"separator": "+"})
    assert seen(cells) == {"T: ": 40, "T: A": 40, "T: A+B": 40}


@pytest.mark.parametrize("separator", ["+", "|", ";", ",", "&"])
def test_labels_that_hold_the_control_need_a_separator(tmp_path: Path, separator: str):
    adata = adata_of(labels=("ctrl", f"A{separator}ctrl", f"A{separator}B"))
    with pytest.raises(DataError, match=r"holds the control's name") as error:
        read(adata, tmp_path)
    assert f'"separator": "{separator}"' in str(error.value)
    named = {f"A{separator}ctrl": "A", f"A{separator}B": "both"}
    cells, _ = read_file(tmp_path, rule={"targets": named})
    assert seen(cells) == {"T: ": 40, "T: A": 40, "T: both": 40}


@pytest.mark.parametrize("label", ["A+", "+A", "A++B", "+"])
def test_an_empty_part_of_a_combination_is_refused(tmp_path: Path, label: str):
    with pytest.raises(DataError, match=r"d\.h5ad: obs\['condition'\]: the label .* empty part"):
        read(adata_of(labels=("ctrl", label)), tmp_path, rule={"separator": "+"})


def test_a_target_named_twice_in_a_label_is_one_intervention(tmp_path: Path):
    cells, _ = read(adata_of(labels=("ctrl", "A+A")), tmp_path, rule={"separator": "+"})
    assert seen(cells) == {"T: ": 60, "T: A": 60}


def test_several_control_names_are_one_control(tmp_path: Path):
    adata = adata_of(labels=("non-targeting", "safe-targeting", "A"))
    cells, _ = read(adata, tmp_path, control=["non-targeting", "safe-targeting"])
    assert seen(cells) == {"T: ": 80, "T: A": 40}


def test_a_label_mapped_to_the_control_is_control(tmp_path: Path):
    adata = adata_of(labels=("non-targeting", "safe-targeting", "A"))
    rule = {"targets": {"safe-targeting": "non-targeting"}}
    cells, notes = read(adata, tmp_path, control="non-targeting", rule=rule)
    assert seen(cells) == {"T: ": 80, "T: A": 40}
    assert not notes


def test_two_labels_mapped_onto_each_other_are_exchanged(tmp_path: Path):
    cells, _ = read(adata_of(n=121), tmp_path, rule={"targets": {"A": "B", "B": "A"}})
    assert seen(cells) == {"T: ": 41, "T: A": 40, "T: B": 40}


def test_a_second_control_that_is_not_named_is_remarked_on(tmp_path: Path):
    _, notes = read(adata_of(labels=("ctrl", "safe-targeting", "A")), tmp_path)
    assert any("'safe-targeting'" in note and "reads like a control" in note for note in notes)


def test_a_control_that_no_cell_has_is_refused_with_the_labels_that_are_there(tmp_path: Path):
    with pytest.raises(DataError) as error:
        read(adata_of(labels=("Control", "A", "B")), tmp_path, control="control")
    assert "did you mean 'Control'" in str(error.value)
    assert "'A' (40)" in str(error.value)


def test_a_control_that_where_filters_out_is_refused_as_that(tmp_path: Path):
    adata = adata_of(kept=["no" if i % 3 == 0 else "yes" for i in range(120)])
    with pytest.raises(DataError, match="no control cells are left") as error:
        read(adata, tmp_path, source={"where": {"kept": ["yes"]}})
    assert "'where'" in str(error.value) or "`where`" in str(error.value)


def test_a_context_without_control_cells_is_left_out_with_a_word(tmp_path: Path):
    types = ["U" if i % 3 and i % 2 else "T" for i in range(120)]
    cells, notes = read(adata_of(cell_type=types), tmp_path)
    assert seen(cells) == {"T: ": 40, "T: A": 20, "T: B": 20}
    assert len(cells) == 80
    assert any("1 of 2 contexts have no control cells" in note for note in notes)
    assert any("left out with 40 perturbed cells: cell_type=U" in note for note in notes)


def test_a_context_that_goes_with_the_perturbation_is_refused(tmp_path: Path):
    adata = adata_of()
    adata.obs["batch"] = adata.obs["condition"]
    context = {"cell_type": "obs:cell_type", "batch": "obs:batch"}
    with pytest.raises(DataError, match="no context has both perturbed and control cells"):
        read(adata, tmp_path, source={"context": context})


def test_numbers_are_labels_too(tmp_path: Path):
    adata = adata_of(labels=(0, 1, 2), cell_type=[float(i % 2) for i in range(120)])
    cells, _ = read(adata, tmp_path, control="0")
    assert set(seen(cells)) == {f"{t}: {p}" for t in ("0.0", "1.0") for p in ("", "1", "2")}


def test_a_label_that_is_too_long_for_a_target_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"d\.h5ad: obs\['condition'\]: the label 'xxxx"):
        read(adata_of(labels=("ctrl", "x" * 80)), tmp_path)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    with pytest.raises(DataError, match="no obs column 'Condition'") as error:
        read(adata_of(), tmp_path, rule={"column": "Condition"})
    assert "did you mean 'condition'" in str(error.value)


def test_doses_are_conditions_and_a_dose_that_is_none_is_named(tmp_path: Path):
    doses = [0.0 if i % 3 == 0 else 10.0 ** (i % 2) for i in range(120)]
    cells, _ = read(adata_of(dose=doses), tmp_path, dose="dose", rule={"kind": "drug"})
    assert {(i.target, i.dose) for c in cells.conditions for i in c.interventions} == {
        (t, d) for t in "AB" for d in (1.0, 10.0)
    }
    with pytest.raises(DataError, match=r"obs\['dose'\] is '0.0' for a perturbed cell \(A\)"):
        read(adata_of(dose=[0.0] * 120), tmp_path, dose="dose")


def test_times_are_contexts(tmp_path: Path):
    cells, _ = read(
        adata_of(hours=[6 if i % 2 else 24 for i in range(120)]), tmp_path, time="hours"
    )
    assert {dict(c.context)["time"] for c in cells.conditions} == {"6", "24"}


def test_replicates_are_read_with_the_cells(tmp_path: Path):
    donors = pd.Categorical([None if i < 5 else f"d{i % 2}" for i in range(120)])
    cells, notes = read(adata_of(donor=donors), tmp_path, replicate="donor")
    assert cells.replicate is not None
    assert {*cells.replicate.tolist()} == {"", "d0", "d1"}
    assert any("5 of 120 cells have no replicate" in note for note in notes)


@pytest.mark.parametrize("label", ["unknown", "Doublet", "unassigned", "ambiguous", "?"])
def test_a_donor_that_is_not_known_is_no_donor(tmp_path: Path, label: str):
    donors = [label if i < 5 else f"d{i % 2}" for i in range(120)]
    cells, notes = read(adata_of(donor=donors), tmp_path, replicate="donor")
    assert cells.replicate is not None
    assert {*cells.replicate.tolist()} == {"", "d0", "d1"}
    assert any("5 of 120 cells have no replicate" in note for note in notes)


@pytest.mark.parametrize(
    "label",
    ["control", "Ctrl", "NT", "NTC_3", "non-targeting", "Non_Targeting_01", "NTg4", "neg_ctrl_12",
     "safe-targeting", "DMSO", "vehicle (DMSO)", "unstimulated", "CTRL", "WT", "sgNT-2", "scramble",
     "non-targeting_ACGTACGTACGTACGTACGT", "Untreated", "mock"],
)  # fmt: skip
def test_usual_names_of_controls_are_known(label: str):
    assert means_control(label)


@pytest.mark.parametrize(
    "label", ["NTRK1", "STAT1", "CTLA4", "WTAP", "NCOR1", "SAFB", "CONTROLIN", "MOCKA", "NEGR1",
              "stimulated", "IFNB", "SCRIB", "panobinostat", "NT5E", "CTRL1B", "EVX1"]
)  # fmt: skip
def test_genes_are_no_controls(label: str):
    assert not means_control(label)
    assert not may_mean_control(label)

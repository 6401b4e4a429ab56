"""Files of cells to which nothing was done: trained on by one command, and then asked."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from click.testing import CliRunner
from made_data import adata_of

from lingshu_model.contracts import Catalogue
from lingshu_model.train.__main__ import main as train
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.plan import planned
from lingshu_model.train.inspect.show import next_command, shown
from lingshu_model.train.inspect.understanding import Understanding

TYPES = ("B cell", "T cell", "T cell", "monocyte")


def atlas(n: int = 80, **columns: Sequence[Any]) -> anndata.AnnData:
    """Cells without a column of perturbations."""
    types = {"cell_type": [TYPES[i % 4] for i in range(n)], "donor": ["p1", "p2"] * (n // 2)}
    adata = adata_of(n, **types | columns)
    del adata.obs["condition"]
    return adata


def looked(adata: anndata.AnnData, folder: Path, **options: Any) -> Understanding:
    adata.write_h5ad(folder / "cells.h5ad")
    return inspect(folder / "cells.h5ad", Options(**options), name="cells")


def test_cells_without_a_column_of_perturbations_are_all_controls(tmp_path: Path):
    matches = looked(atlas(), tmp_path, context=["cell_type", "donor"])
    assert not matches.fatal
    assert matches.conditions == {"": 80}
    # Cells alternate in donors and follow in types: 4 pairs, of them monocytes of p2 alone.
    assert sum(control for control, _ in matches.contexts.values()) == 80
    assert all(perturbed == 0 for _, perturbed in matches.contexts.values())
    assert "say --perturbation COLUMN if something was done" in shown(matches)
    plan = planned(matches, "cells", "cells.h5ad")
    assert plan.spec.sources[0].perturbation is None


def test_without_a_word_on_what_the_cells_are_nothing_is_guessed(tmp_path: Path):
    matches = looked(atlas(), tmp_path)
    (problem,) = matches.fatal
    assert "with --context alone" in problem.remedy
    assert "cell_type (3 labels)" in problem.remedy


@pytest.mark.parametrize(
    "said", [{"control": ["ctrl"]}, {"kind": "drug"}, {"dose": "cell_type"}, {"separator": "+"}]
)
def test_what_only_perturbed_cells_have_is_not_ignored(tmp_path: Path, said: dict[str, Any]):
    matches = looked(atlas(), tmp_path, context=["cell_type"], **said)
    assert [p.what for p in matches.fatal] == [
        "no column of obs names a perturbation and control cells"
    ]


def test_a_column_of_perturbations_is_left_aside_where_the_user_says_so(tmp_path: Path):
    both = adata_of(120, cell_type=[TYPES[i % 4] for i in range(120)])
    assert looked(both, tmp_path, context=["cell_type"]).perturbation == "condition"
    matches = looked(both, tmp_path, context=["cell_type"], perturbation="none")
    assert matches.conditions == {"": 120}
    # The command that is proposed says so too, and leads to the same.
    command = shlex.split(next_command(tmp_path / "cells.h5ad", matches))
    assert command[3:5] == ["--perturbation", "none"]
    (problem,) = looked(both, tmp_path, perturbation="none").fatal
    assert "no column says what they are" in problem.what


def test_a_column_called_none_is_a_column(tmp_path: Path):
    named = adata_of(120).copy()
    named.obs = named.obs.rename(columns={"condition": "none"})
    matches = looked(named, tmp_path, perturbation="none", control=["ctrl"])
    assert matches.perturbation == "none"
    assert set(matches.conditions) == {"", "A", "B"}


def test_cells_without_a_type_are_left_out_and_counted(tmp_path: Path):
    adata = atlas()
    adata.obs["cell_type"] = ["unassigned"] * 5 + list(adata.obs["cell_type"][5:])
    matches = looked(adata, tmp_path, context=["cell_type"])
    assert matches.used == 75
    assert "'unassigned'" in " ".join(matches.left_out)


def run(*words: object) -> Any:
    return CliRunner().invoke(train, [str(word) for word in words])


def test_the_effects_of_nothing_are_refused_before_anything_is_trained(tmp_path: Path):
    atlas().write_h5ad(tmp_path / "cells.h5ad")
    result = run(tmp_path / "cells.h5ad", "--context", "cell_type", "--yes", "--recipe", "effects",
                 "--out", tmp_path / "runs")  # fmt: skip
    assert result.exit_code != 0
    assert "no cell is perturbed" in str(result.exception) + result.output


@pytest.mark.slow
@pytest.mark.parametrize("few", [False, True])
def test_one_command_makes_a_checkpoint_whose_catalogue_has_the_cells_of_every_type(
    tmp_path: Path, few: bool
):
    # Types of five cells: no null label could be made of any.
    adata = atlas(20 if few else 80)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    result = run(tmp_path / "cells.h5ad", "--context", "cell_type", "--yes", "--epochs", 1,
                 "--out", tmp_path / "runs", "--name", "atlas", "--threads", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "none of them perturbed" in result.output
    checkpoint = Catalogue([tmp_path / "runs" / "atlas" / "checkpoint"]).load("atlas")
    counted = {e["context"]["cell_type"]: e["n_cells"] for e in checkpoint.config["seen"]}
    quarter = adata.n_obs // 4
    assert counted == {"B cell": quarter, "T cell": 2 * quarter, "monocyte": quarter}
    assert checkpoint.targets == {}
    assert checkpoint.delivery is None
    assert np.isfinite(checkpoint.reference["mean_log1p_cp10k"]).all()
    assert json.loads((tmp_path / "runs" / "atlas" / "spec.json").read_text("utf-8"))
    assert not re.search("of perturbations", result.output)

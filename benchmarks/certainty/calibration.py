"""Held-out contrasts of every data set, and what intervals and signs say of them.

Folds are those that a training rotates (`lingshu_model.finishing.evidence`): replicates of `thp1`,
animals of `pig`, fifths of the cells of the others, and contexts left out. Factors of a contrast's
interval are fitted to other contrasts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lingshu_model.finishing.evidence import certainty_of, judged_folds
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.sources import read_cells
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.plan import planned
from lingshu_model.train.spec import TrainingSpec
from lingshu_tools.analysis.error_by_size import NARROWEST, WIDEST, estimable

SUITE = {"gbm": "gbm.h5ad", "jurkat": "jurkat.h5ad", "pig": "pig_cftr_ko_airway.h5ad"}
SETS = ("thp1", "pbmc", *SUITE)
CHOSEN = ("thp1", "gbm", "jurkat")
"""Sets that the form of the error model was chosen on; the others check it."""
PRESETS = Path("model/presets")
CALIBRATION = (
    *("set", "tier", "role", "contrasts", "folds", "genes", "rare_genes", "covered"),
    *("covered_by_posterior", "called", "expected_wrong", "wrong", "wrong_se"),
    *("seen_wrong_expected", "seen_wrong", "seen_wrong_se", "slope", "slope_se", "strong_slope"),
    *("strong_contrasts", "weak_called", "weak_slope", "weak_slope_se"),
)
STRATA = ("set", "tier", "by", "from", "to", "n", "contrasts", "covered", "se", "before", "verdict")


def read(name: str, data: Path) -> TrainingCells:
    """Return the cells of a data set, as a training reads them."""
    if name in SUITE:
        file = data / "suite" / SUITE[name]
        spec = planned(inspect(file), "measured", file.name, recipe="effects").spec
        return read_cells(spec, file.parent)
    preset = json.loads(
        (PRESETS / f"{'thp1-crispr' if name == 'thp1' else 'pbmc'}.json").read_text()
    )
    if name == "thp1":
        preset["sources"][0]["where"] = {}  # all three replicates
    else:
        preset["sources"] = [s for s in preset["sources"] if "kang2018" in s["file"]]
        preset.pop("unseen")
        preset.pop("adapted_to")
    return read_cells(TrainingSpec.model_validate(preset), data)


def judged_set(name: str, data: Path) -> dict[str, Any]:
    """Return the certainty of each tier of a data set, without the tiers that it does not have."""
    certain = certainty_of(judged_folds(read(name, data), {}))
    return {tier: value for tier, value in certain.items() if value}


def calibration_rows(name: str, tiers: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield a line of `CALIBRATION` for each tier."""
    role = "chosen on" if name in CHOSEN else "check"
    for tier, value in tiers.items():
        c = value["calibration"]
        yield (
            *(name, tier, role, c["n_contrasts"], c["n_folds"], c["n"], c["n_rare"], c["covered"]),
            *(c["covered_by_posterior"], c["n_called"], c["expected_wrong_signs"]),
            *(c["wrong_signs"], c["wrong_signs_standard_error"], c["seen_wrong_expected"]),
            *(c["seen_wrong"], c["seen_wrong_standard_error"], c["slope_of_called"]),
            *(c["slope_standard_error"], c["strong"]["slope"], c["strong"]["n_contrasts"]),
            *(c["weak"]["n_called"], c["weak"]["slope"], c["weak"]["standard_error"]),
        )


def strata_rows(name: str, tiers: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield a line of `STRATA` for each bin of |predicted change| and of held-out cells."""
    for tier, value in tiers.items():
        for by, key in (("size", "error_by_size"), ("cells", "coverage_by_cells")):
            for row in value[key]:
                yield (
                    *(name, tier, by, row["from"], row["to"], row["n"], row["n_contrasts"]),
                    *(row["covered"], row["covered_standard_error"], row["covered_by_posterior"]),
                    _verdict(row),
                )


def _verdict(row: dict[str, Any]) -> str:
    if not estimable(row):
        return "not estimable"
    if NARROWEST <= row["covered"] <= WIDEST:
        return "within"
    error = 1.96 * row["covered_standard_error"]
    near = row["covered"] + error >= NARROWEST and row["covered"] - error <= WIDEST
    return "outside, interval within" if near else "outside"

"""How deep cells of a condition are taken to be, trained on or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingshu_model.contracts import Checkpoint, CheckpointError, Intervention

IFN = Intervention(kind="cytokine", target="IFN-beta")


def entry(cell_type: str, depths: list[float], n_cells: int, *targets: str) -> dict[str, Any]:
    interventions = [{"kind": "cytokine", "target": target} for target in targets]
    return {
        "context": {"cell_type": cell_type},
        "interventions": interventions,
        "n_cells": n_cells,
        "depth_quantiles": depths,
    }


def checkpoint(*seen: dict[str, Any]) -> Checkpoint:
    contexts = [{"context": item["context"]} for item in seen if not item["interventions"]]
    return Checkpoint("made", Path("made"), "", {"seen": list(seen), "contexts": contexts}, {})


CELLS = checkpoint(
    entry("B", [6.0, 7.0], 90),
    entry("B", [6.3, 7.3], 60, "IFN-beta"),
    entry("NK", [5.0, 6.0], 90),
    entry("NK", [5.9, 6.9], 30, "IFN-beta"),
    entry("T", [4.0, 8.0], 90),
)


def depths(cell_type: str, *done: Intervention) -> list[float]:
    return CELLS.depth_quantiles({"cell_type": cell_type}, done).tolist()


def test_what_was_trained_on_is_as_deep_as_its_cells() -> None:
    assert depths("B") == [6.0, 7.0]
    assert depths("NK", IFN) == [5.9, 6.9]


def test_elsewhere_depth_moves_as_it_moved_where_the_perturbation_was_seen() -> None:
    # (60 x 0.3 + 30 x 0.9) / 90
    assert depths("T", IFN) == pytest.approx([4.5, 8.5])
    assert depths("unheard of", IFN) == pytest.approx(np.array(depths("B")) + 0.5)


def test_a_perturbation_never_seen_moves_no_depth() -> None:
    assert depths("T", Intervention(kind="cytokine", target="IL-6")) == [4.0, 8.0]


def test_where_only_perturbed_cells_were_seen_nothing_is_told_of_others() -> None:
    alone = checkpoint(entry("B", [6.0, 7.0], 9), entry("NK", [5.0, 6.0], 9, "IFN-beta"))
    assert alone.depth_quantiles({"cell_type": "B"}, [IFN]).tolist() == [6.0, 7.0]


def test_a_checkpoint_that_says_nothing_of_depths_says_so() -> None:
    mute = checkpoint(entry("B", [6.0, 7.0], 9))
    mute.config["seen"][0]["context"] = {"cell_type": "NK"}
    with pytest.raises(CheckpointError, match="says nothing of how deep cells of"):
        mute.depth_quantiles({"cell_type": "T"}, [])

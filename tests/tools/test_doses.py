"""Training cells that a result is compared with are those of the same dose."""

from dataclasses import replace

import pytest

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_testing import CONTEXT
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.findings import seen_row


@pytest.mark.parametrize(("dose", "row"), [(1.0, 1), (10.0, 2), (3.0, None), (None, 3)])
def test_the_training_cells_of_a_condition_have_its_dose(
    checkpoint: Checkpoint, dose: float | None, row: int | None
):
    seen = [[], *([{"kind": "drug", "target": "X", "dose": d}] for d in (1.0, 10.0, None))]
    config = {"seen": [{"context": CONTEXT, "interventions": i, "n_cells": 9} for i in seen]}
    design = Design(
        tool="sample_cells",
        checkpoint=replace(checkpoint, config={**checkpoint.config, **config}),
        context=CONTEXT,
        interventions=(Intervention(kind="drug", target="X", dose=dose),),
        n_cells=4,
        seed=0,
        first_cell=0,
        steps=8,
        guidance=0.0,
    )
    assert seen_row(design) == row

"""Where an agent reads how many real cells would show a prediction."""

from pathlib import Path

import numpy as np

from lingshu_model.contracts import Checkpoint
from lingshu_testing import make_checkpoint
from lingshu_tools.app import App
from lingshu_tools.calls.concise import structured
from lingshu_tools.calls.dispatcher import call
from lingshu_tools.experiments.needed_cells import CountModel

GENES = ["UBE2L6", "PSMB9", "STAT1", "PCBP3"]
PERTURB = {
    "checkpoint": "thp1-crispr", "interventions": [{"kind": "knockout", "target": "JAK2"}],
    "n_cells": 16, "wait_s": 45, "genes": GENES, "detail": "detailed",
}  # fmt: skip


def test_a_detailed_effect_says_the_real_cells_of_each_gene_and_a_concise_one_does_not(app: App):
    result = call(app, "perturb_cells", PERTURB)
    rows = {row.gene: row for row in result.genes}
    assert "real_cells" in result.units
    # Strong and certain: some tens of cells; with its doubt more, but a number.
    for gene in ("UBE2L6", "PSMB9"):
        expected, assured = rows[gene].real_cells
        assert 5 <= expected <= assured <= 200
    concise = structured(result, "perturb_cells", PERTURB, detailed=False)
    assert not [row for row in concise["genes"] if "real_cells" in row]


def test_a_gene_of_which_nothing_is_known_has_no_number_or_a_large_one(app: App):
    genes = call(app, "perturb_cells", PERTURB).genes
    by_change = sorted(genes, key=lambda row: -abs(row.model_mean))
    numbers = [row.real_cells[0] if row.real_cells else np.inf for row in by_change]
    assert numbers[-1] > 10 * numbers[0]


def test_a_proposed_plate_says_how_many_cells_a_well_needs(app: App):
    screen = {"checkpoint": "thp1-crispr", "objective": {"lower": ["PSMB9", "STAT1", "UBE2L6"]},
              "candidates": "all_seen"}  # fmt: skip
    screen_id = call(app, "plan_screen", screen).screen_id
    given = {"screen_id": screen_id, "n_wells": 8, "wait_s": 45}
    picks = call(app, "propose_batch", given).picks
    by_score = sorted(picks, key=lambda pick: -abs(pick.score))
    needed = [pick.real_cells[0] for pick in by_score if pick.real_cells]
    assert needed == sorted(needed)
    assert needed[0] < 50


def test_a_score_needs_what_its_gene_needs_and_more_of_genes_that_are_not_averaged(
    thp1: Checkpoint,
):
    model = CountModel.of(thp1, thp1.contexts[0])
    assert model is not None
    gene = thp1.panel.index("PSMB9")
    weights, changes = np.zeros(len(thp1.panel)), np.zeros(len(thp1.panel))
    weights[gene], changes[gene] = -1.0, -1.4
    assert model.cells_for_score(weights, changes, 1.4, 0.2) == model.cells_for(gene, -1.4, 0.2)


def test_a_checkpoint_without_count_distributions_gives_no_number(tmp_path: Path):
    checkpoint = make_checkpoint(tmp_path / "checkpoints")
    assert CountModel.of(checkpoint, checkpoint.contexts[0]) is None


def test_an_unknown_context_gives_no_number(thp1: Checkpoint):
    assert CountModel.of(thp1, {"cell_line": "HeLa"}) is None

"""What the analysis and the storing of cells hold in memory, for two numbers of cells."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lingshu_model.contracts import Blob, Cells, decode_cells, encode_cells
from lingshu_testing.memory import most_held
from lingshu_tools.analysis import Objective, paired_effect, paired_score, summarised
from lingshu_tools.ledger.objects import ObjectStore

GENES = 600
PER_CELL = 60
PANEL = [f"G{i}" for i in range(GENES)]
FEW, MANY = 10_240, 20_480
"""Both in blocks of 512 cells, so that all but what grows with the cells is the same."""
ARRAYS = 32
"""Bytes of a cell: a few numbers are kept of each, an object is not."""


def stored(n: int, seed: int, folder: Path) -> Cells:
    """Cells that lie in a file, as those of an engine do."""
    rng = np.random.Generator(np.random.Philox(seed))
    width = GENES // PER_CELL
    genes = np.arange(PER_CELL) * width + rng.integers(0, width, (n, PER_CELL))
    ends = np.arange(n + 1) * PER_CELL
    counts = 1 + rng.poisson(1.0, genes.size)
    cells = Cells.from_csr(
        ends, genes.ravel().astype(np.int32), counts.astype(np.int32), np.ones(GENES, bool)
    )
    file = folder / f"{n}-{seed}"
    file.write_bytes(encode_cells(cells))
    return decode_cells(file)


def effect(control: Cells, perturbed: Cells) -> None:
    paired_effect(control, perturbed)


def score(control: Cells, perturbed: Cells) -> None:
    paired_score(control, perturbed, Objective(up=("G9",)), PANEL)


def summary(control: Cells, _: Cells) -> None:
    summarised(control)


@pytest.mark.parametrize(("analyse", "rows"), [(effect, 1), (score, 0), (summary, 0)])
def test_analysis_holds_a_few_numbers_of_a_cell_and_rows_of_each_512(
    tmp_path: Path, analyse: Callable[[Cells, Cells], None], rows: int
):
    pairs = [(stored(n, 1, tmp_path), stored(n, 2, tmp_path)) for n in (FEW, MANY)]
    few, many = (most_held(lambda pair=pair: analyse(*pair)) for pair in pairs)
    assert many - few < (MANY - FEW) * (ARRAYS + rows * 8 * GENES / 512)


@pytest.mark.parametrize("again", [False, True])
def test_storing_holds_a_few_numbers_of_a_cell(tmp_path: Path, again: bool):
    objects = ObjectStore(tmp_path / "objects")
    blobs = [Blob([stored(n, 1, tmp_path)]) for n in (FEW, MANY)]
    if again:
        for blob in blobs:
            objects.put(blob)
    few, many = (most_held(lambda blob=blob: objects.put(blob)) for blob in blobs)
    assert many - few < (MANY - FEW) * ARRAYS

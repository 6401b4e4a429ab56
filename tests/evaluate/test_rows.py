from pathlib import Path

import numpy as np
import pytest

from lingshu_model.evaluate import HeldOut, NamedSet, Row, read_rows, write_rows

ROWS = [
    Row("mse", "seen", "cells", "a", "model", 0, "test", 0.25, np.array([0.5, 0.125])),
    Row("mse", "seen", "cells", "a", "noise_ceiling", None, "test", 1 / 3),
]
HELD_OUT = HeldOut(
    name="a",
    tier="seen",
    population="cells",
    fold="test",
    context={"cell_line": "THP-1"},
    interventions=[{"kind": "knockout", "target": "A"}, {"kind": "knockout", "target": "B"}],
    n_cells=(3, 4, 5),
    genes=["A", "B"],
    predicted=None,
    observed=np.array([0.5, -1.0]),
    noise=np.array([0.25, 0.0]),
)
SETS = [NamedSet("all", "contrasts", "seen", frozenset({("cells", "a"), ("cells", "b")}))]


def test_rows_and_contrasts_are_read_as_they_were_written(tmp_path: Path):
    path = tmp_path / "rows.npz"
    write_rows(path, ROWS, [HELD_OUT], SETS)
    rows, (contrast,), sets = read_rows(path)
    assert rows == ROWS
    assert [row.draws.tolist() for row in rows] == [[0.5, 0.125], []]
    assert sets == SETS
    for name in ("name", "tier", "population", "fold", "context", "interventions", "genes"):
        assert getattr(contrast, name) == getattr(HELD_OUT, name)
    assert tuple(contrast.n_cells) == HELD_OUT.n_cells
    assert contrast.predicted is None
    assert contrast.observed.tolist() == [0.5, -1.0]
    assert contrast.targets == "A+B"


def test_a_file_without_rows_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz is no file of rows"):
        read_rows(path)
    path.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"other\.npz is no file of rows"):
        read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.npz")

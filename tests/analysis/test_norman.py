"""Pooled UMI counts found again in log fold changes that were made of them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.combinations.norman import read

TARGETS, GENES = 12, 80


def published(path: Path, *, spoil: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write log fold changes as they were published; return UMI, totals and control's CPM."""
    rng = np.random.default_rng(2)
    # Genes from nearly absent to strong; a strong one never reaches its floor.
    control = np.sort(rng.lognormal(0.5, 1.5, GENES))
    total = rng.integers(300_000, 3_000_000, TARGETS + 4).astype(float)
    umi = rng.poisson(control * rng.lognormal(0, 0.4, (len(total), GENES)) * total[:, None] / 1e6)
    umi[:, :40] *= rng.random((len(total), 40)) < 0.6
    umi[:, 8] = np.arange(len(total)) % 2
    umi[:, 9] = 1 - umi[:, 8]
    lfc = np.log1p(umi / total[:, None] * 1e6) - np.log1p(control)
    lfc[0, -1] += spoil
    doubles = [f"T{i}+T{i + 1}" for i in range(4)]
    np.savez(
        path,
        lfc_s=lfc[:TARGETS].astype(np.float32),
        lfc_d=lfc[TARGETS:].astype(np.float32),
        genes_hvg=np.array([f"G{i}" for i in range(GENES)]),
        sing_labels=np.array([f"T{i}" for i in range(TARGETS)]),
        doub_labels=np.array(doubles),
    )
    return umi, total, control


def test_counts_totals_and_control_come_back_exactly(tmp_path: Path) -> None:
    umi, total, control = published(tmp_path / "lfc.npz")
    result = read(tmp_path / "lfc.npz")
    assert result.misfit < 0.05
    assert np.array_equal(result.umi, umi)
    assert result.total == pytest.approx(total, rel=1e-6)
    assert result.control_cpm == pytest.approx(control, rel=1e-4)
    assert result.doubles[0] == ("T0", "T1")
    assert result.conditions[:1] == (("T0",),)


def test_numbers_that_were_never_counts_are_refused(tmp_path: Path) -> None:
    published(tmp_path / "lfc.npz", spoil=0.137)
    with pytest.raises(ValueError, match="the UMI of G79 are not whole numbers"):
        read(tmp_path / "lfc.npz")

"""The UMI counts behind the published log fold changes of Norman 2019 (K562, CRISPRa).

The file holds no cells, but its numbers say what they are computed from: each is
ln(1 + CPM of the condition) - ln(1 + CPM of control), natural logarithms, pooled over a condition's
cells. A gene without a UMI in a condition lies at the gene's floor, -ln(1 + CPM of control); above
the floor everything is a whole number of UMI, and the least step tells how many UMI there were in
all. So counts and totals come back exactly (`Recovered.misfit` says how nearly whole they are), and
with them the counting noise of every published double. How many cells there were does not.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FLOORED = 5
"""A gene is known to reach its floor if at least so many conditions share its least value."""
MOST_UMI = 20_000
"""Of a gene that never reaches its floor, in the condition with the fewest UMI."""


@dataclass(frozen=True)
class Recovered:
    """Pooled counts of every condition.

    Attributes:
        genes: symbols as published.
        singles: targets.
        doubles: pairs of targets, in the published order.
        umi: float64 [singles then doubles, genes], whole numbers.
        total: UMI of each condition over all its genes, published or not.
        control_cpm: [genes].
        control_total: UMI of control, or NaN if no whole number fits.
        misfit: largest distance of a count from a whole number.
    """

    genes: tuple[str, ...]
    singles: tuple[str, ...]
    doubles: tuple[tuple[str, str], ...]
    umi: Floats
    total: Floats
    control_cpm: Floats
    control_total: float
    misfit: float

    @property
    def cpm(self) -> Floats:
        """UMI per million, [singles then doubles, genes]."""
        return self.umi / self.total[:, None] * 1e6

    @property
    def conditions(self) -> tuple[tuple[str, ...], ...]:
        """Targets of every row."""
        return (*((single,) for single in self.singles), *self.doubles)


def read(path: Path) -> Recovered:
    """Return the counts behind the file `norman2019_k562_crispra.npz`.

    Raises:
        ValueError: they are not whole numbers, so the file is not what it was.
    """
    with np.load(path, allow_pickle=False) as file:
        lfc = np.concatenate([file["lfc_s"], file["lfc_d"]]).astype(np.float64)
        genes = tuple(str(g) for g in file["genes_hvg"])
        singles = tuple(str(s) for s in file["sing_labels"])
        doubles = tuple(_pair(str(d)) for d in file["doub_labels"])
    floor = lfc.min(axis=0)
    floored = (np.abs(lfc - floor) < 1e-6).sum(axis=0) >= FLOORED
    total = np.array([_total(np.exp(row) - 1) for row in (lfc - floor)[:, floored]])
    control = np.exp(-floor) - 1
    fewest = int(total.argmin())
    for gene in np.flatnonzero(~floored):
        control[gene] = _control(lfc[:, gene], total, fewest)
    raw = (np.exp(lfc) * (1 + control) - 1) * total[:, None] / 1e6
    umi = np.rint(raw)
    misfit = float(np.abs(raw - umi).max())
    if not misfit < 0.1:
        gene = genes[int(np.abs(raw - umi).max(axis=0).argmax())]
        raise ValueError(f"{path}: the UMI of {gene} are not whole numbers (off by {misfit:.2f})")
    control_total = _total(np.sort(control)[:200])
    return Recovered(genes, singles, doubles, umi, total, control, control_total, misfit)


def _pair(label: str) -> tuple[str, str]:
    first, _, second = label.partition("+")
    return first, second


def _total(per_million: Floats) -> float:
    """Return the total UMI that makes whole numbers of `per_million`, some of which are one UMI."""
    x = per_million[per_million > 1e-5]
    total = 1 / x.min()
    for most in (20, 200, 2_000):
        k = np.rint(x * total)
        small = (k > 0) & (k <= most)
        total = (k[small] @ x[small]) / (x[small] @ x[small])
    off = np.abs(x * total - np.rint(x * total))
    return float(total * 1e6) if np.median(off) < 0.01 else float("nan")


def _control(lfc: Floats, total: Floats, fewest: int) -> float:
    """Return control's CPM of one gene: that at which all conditions have whole numbers of UMI."""
    one_plus = (1 + np.arange(MOST_UMI) / total[fewest] * 1e6) * np.exp(-lfc[fewest])
    counts = (np.exp(lfc)[:, None] * one_plus - 1) * total[:, None] / 1e6
    off = np.abs(counts - np.rint(counts)).mean(axis=0) + (counts.min(axis=0) < -0.01)
    return float(one_plus[off.argmin()] - 1)

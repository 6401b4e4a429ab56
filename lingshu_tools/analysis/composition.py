"""Changes of expression against genes without an effect, where counts per 10,000 mislead.

CP10K is relative: on a small panel, where the genes that fall hold much of a cell's UMI, all others
rise in CP10K although their counts stay. Genes without an effect are taken from the counts alone:
of the genes with enough counts, the middle part by their log ratio of summed counts, as in the
trimmed mean of M values (Robinson and Oshlack 2010). Cells are then scaled by the UMI of these
genes, to the share that they have in control cells, so that levels stay comparable with CP10K.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Cells, row_blocks
from lingshu_tools.analysis.differences import gene_levels
from lingshu_tools.analysis.effects import Floats

TRIMMED = 0.3
"""Share of genes that is left out on either side of the log ratios."""
FEWEST_COUNTS = 20
"""UMI of a gene, over both arms, below which its log ratio is too uncertain to be ranked."""
FEWEST_GENES = 10


@dataclass(frozen=True)
class Unresponsive:
    """Genes without an effect, by the counts of two arms.

    Attributes:
        genes: bool [genes].
        share: of the UMI of control cells that they hold.
        shift: ln of the CP10K ratio, perturbed / control, of all of these genes together: by so
            much a gene without an effect seems to rise in CP10K.
    """

    genes: NDArray[np.bool_]
    share: float
    shift: float


def gene_totals(cells: Cells) -> Floats:
    """Return the UMI of each gene over all cells, [genes]."""
    # float64 holds sums of UMI exactly up to 2**53.
    totals = np.zeros(len(cells.measured))
    for rows in row_blocks(*cells.shape):
        block = cells[rows]
        totals += np.bincount(block.indices[:], block.values[:], len(totals))
    return totals


def unresponsive_genes(
    control: Floats, perturbed: Floats, left_out: Sequence[int]
) -> Unresponsive | None:
    """Return the genes without an effect; None where too few genes have counts.

    Args:
        control: UMI of each gene over the control cells, [genes].
        perturbed: the same of as many perturbed cells.
        left_out: genes that are none: those acted on.
    """
    counted = control + perturbed >= FEWEST_COUNTS
    counted[list(left_out)] = False
    candidates = np.flatnonzero(counted)
    # Chosen by majority: the middle 40 % of the log ratios are taken to be the genes at rest.
    trimmed = int(TRIMMED * len(candidates))
    if len(candidates) - 2 * trimmed < FEWEST_GENES:
        return None
    # Half a count keeps the ratio finite for a gene that one arm lacks. Differences in depth
    # between the arms shift all ratios alike, and so do not change their order.
    ratios = np.log((perturbed[candidates] + 0.5) / (control[candidates] + 0.5))
    order = candidates[np.argsort(ratios, kind="stable")]
    genes = np.zeros(len(control), np.bool_)
    genes[order[trimmed : len(order) - trimmed]] = True
    # Of all UMI of each arm: (control, perturbed). Without an effect both would be equal.
    shares = [float(totals[genes].sum() / totals.sum()) for totals in (control, perturbed)]
    return Unresponsive(genes, shares[0], math.log(shares[1] / shares[0]))


def changes_against(
    control: Cells, perturbed: Cells, unresponsive: Unresponsive, genes: Sequence[int]
) -> Floats:
    """Return changes of cell pairs, ln(1 + UMI per 10,000 by these genes), [pairs, genes]."""
    # ln(1 + 10,000 f c / N_U): f is the share in control cells for both arms, so only N_U, the
    # UMI of these genes in the cell, differs from CP10K.
    levels = (
        gene_levels(cells, genes, unresponsive.genes, scale=unresponsive.share)
        for cells in (perturbed, control)
    )
    return next(levels) - next(levels)

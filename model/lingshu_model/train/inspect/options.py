"""What a user may say about a file; what is not said is proposed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lingshu_model.contracts.messages import TrainedKind


@dataclass(frozen=True)
class Options:
    """What is known of a file from its user.

    Attributes:
        perturbation: the obs column of the perturbation; `none` = no cell is perturbed.
        control: names of control cells in it.
        context: obs columns, or FIELD=VALUE for what all cells share, or FIELD=obs:COLUMN.
        kind: what was done to perturbed cells.
        replicate: the obs column of replicates or donors.
        dose: the obs column of doses.
        time: the obs column of times.
        counts: the matrix with raw counts: `X`, `layers/NAME` or `raw/X`.
        gene_names: the var column with the names of genes.
        separator: what stands between the targets of a combination; "" = nothing does.
    """

    perturbation: str | None = None
    control: Sequence[str] = ()
    context: Sequence[str] = field(default=())
    kind: TrainedKind | None = None
    replicate: str | None = None
    dose: str | None = None
    time: str | None = None
    counts: str | None = None
    gene_names: str | None = None
    separator: str | None = None

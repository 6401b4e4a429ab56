"""Which rows of `var` are genes, and which of its columns has their Ensembl ids.

Files of several assays in one matrix (CITE-seq, guides, hashtags) say in a column of `var` what
each feature is. Counts of antibodies are no part of a transcriptome: they would enter the depth of
every cell.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lingshu_model.train.data.labels import texts

# Columns that say what a feature is, without case and separators, and labels of genes in them.
_COLUMNS = ("featuretypes", "featuretype", "featurebiotype", "modality")
_GENE = re.compile(r"(gene(s|[ _]?expression)?|rna|gex|mrna|transcripts?)", re.IGNORECASE)
_SHOWN = 3


@dataclass(frozen=True)
class Features:
    """What the rows of `var` are.

    Attributes:
        genes: which are genes, [rows].
        column: the column that says so; None = all are taken as genes.
        others: number of rows with every other label, the most frequent first.
    """

    genes: NDArray[np.bool_]
    column: str | None
    others: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        """Say what is left out; "" where nothing is."""
        if self.column is None:
            return ""
        shown = ", ".join(
            f"{n:,} {label or 'without a label'}" for label, n in self.others[:_SHOWN]
        )
        more = len(self.others) - _SHOWN
        rest = f" and {more:,} more kinds" if more > 0 else ""
        number = int((~self.genes).sum())
        return (
            f"{number:,} of {len(self.genes):,} features are no genes (var[{self.column!r}]: "
            f"{shown}{rest}) and are left out"
        )

    def of(self, var: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `var` that are genes."""
        return var.iloc[np.flatnonzero(self.genes)]


def features_of(var: pd.DataFrame) -> Features:
    """Return which rows of a `var` are genes: all, unless a column says of some that they are."""
    for name in map(str, var.columns):
        if re.sub(r"[^a-z]", "", name.casefold()) not in _COLUMNS:
            continue
        labels: list[str] = texts(pd.Series(var[name])).values.tolist()
        genes = np.array([bool(_GENE.fullmatch(label)) for label in labels], bool)
        # Without a label of genes the column is about something else, such as `protein_coding`.
        if genes.any() and not genes.all():
            others = Counter(x for x, gene in zip(labels, genes, strict=True) if not gene)
            return Features(genes, name, tuple(others.most_common()))
    return Features(np.ones(len(var), bool), None, ())


def id_column(var: pd.DataFrame) -> str | None:
    """Return the column of `var` with Ensembl ids; None where it has none."""
    for column in [str(c) for c in var.columns][:40]:
        if are_ids(texts(pd.Series(var[column])).values[:200].tolist()):
            return column
    return None


def are_ids(names: Sequence[str]) -> bool:
    """Return whether most of some names are Ensembl ids."""
    return sum(name.startswith("ENS") for name in names) > len(names) / 2

"""The child that ranks genes by their change and tests gene sets on the ranks.

The test is the Wilcoxon-Mann-Whitney test of the set's measured genes against all other measured
genes, two-sided, with correction for ties: posterior means have many, genes without a change.
Permutation tests along a ranked list (GSEA) put ties in an arbitrary order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lingshu_model.contracts import Catalogue
from lingshu_tools.analysis import benjamini_hochberg
from lingshu_tools.children.objects import checked
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import written_design
from lingshu_tools.experiments.findings import unpack_effect
from lingshu_tools.experiments.gene_sets import genes_by_name, read_collection
from lingshu_tools.experiments.stored_effects import stored_effect

FEWEST = 5
"""Measured genes of a set below which it is not tested."""
LEADING = 5
Floats = NDArray[np.float64]


def run(job: Mapping[str, Any], _folder: Path) -> dict[str, Any]:
    """Return `collection`, `digest`, `n_genes`, `source` and `sets`, the most certain first.

    Args:
        job: `request`, `home`, `checkpoint` (a folder), `file` and `digest` of the effect,
            `collection` and its `collection_digest`.
    """
    path = Path(job["checkpoint"])
    checkpoint = Catalogue([path.parent]).load(path.name)
    design = written_design("perturb_cells", job["request"], checkpoint, Path(job["home"]))
    effect = unpack_effect(checked(Path(job["file"]), job["digest"]).read_bytes())
    stored = stored_effect(design)
    values = effect.change if stored is None else stored.posterior.mean
    targets = {i.target for i in design.interventions}
    ranked = effect.measured & np.array([gene not in targets for gene in checkpoint.panel])
    collection = read_collection(job["collection"])
    if collection.digest != job["collection_digest"]:
        message = f"{job['collection']} was changed while it was read; call again"
        raise InputError(message)
    places = genes_by_name(checkpoint)
    members = {
        name: sorted({place for g in genes if (place := places.get(g.casefold(), -1)) >= 0})
        for name, genes in collection.sets.items()
    }
    members = {name: [p for p in genes if ranked[p]] for name, genes in members.items()}
    rows = tested(np.where(ranked, values, np.nan), members)
    for row in rows:
        row["n_genes"] = len(collection.sets[row["gene_set"]])
        row["leading"] = [checkpoint.panel[place] for place in row["leading"]]
    return {
        "collection": collection.name,
        "digest": collection.digest,
        "n_genes": int(ranked.sum()),
        "source": "simulated cells" if stored is None else "posterior means",
        "sets": rows,
    }


def tested(values: Floats, members: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return a row for each set: those tested by p, then those with too few genes.

    Args:
        values: change of each gene, NaN where not ranked.
        members: positions of ranked genes, by set.
    """
    known = np.flatnonzero(np.isfinite(values))
    ranks = np.full(len(values), np.nan)
    ranks[known] = stats.rankdata(values[known])
    ties = float(stats.tiecorrect(ranks[known])) if len(known) > 1 else 0.0
    rows = [_row(name, list(genes), values, ranks, ties) for name, genes in members.items()]
    q = benjamini_hochberg([np.nan if row["p"] is None else row["p"] for row in rows])
    for row, rate in zip(rows, q, strict=True):
        row["q"] = None if np.isnan(rate) else float(rate)
    return sorted(rows, key=lambda r: (r["p"] is None, r["p"] or 0.0, -r["measured"]))


def _row(name: str, genes: list[int], values: Floats, ranks: Floats, ties: float) -> dict[str, Any]:
    total, n = int(np.isfinite(ranks).sum()), len(genes)
    empty = {"gene_set": name, "measured": n, "auc": None, "p": None, "leading": [], "mean": None}
    rest = total - n
    if n < FEWEST or not rest or not ties:
        return empty
    u = float(ranks[genes].sum()) - n * (n + 1) / 2
    middle, sd = n * rest / 2, np.sqrt(ties * n * rest * (total + 1) / 12)
    z = max(abs(u - middle) - 0.5, 0.0) / sd  # with continuity correction
    sign = 1 if u >= middle else -1
    strongest = sorted(genes, key=lambda g: -sign * values[g])
    leading = [g for g in strongest[:LEADING] if sign * values[g] > 0]
    return {
        **empty,
        "auc": u / (n * rest),
        "p": float(2 * stats.norm.sf(z)) if z else 1.0,
        "mean": float(values[genes].mean()),
        "leading": leading,
    }

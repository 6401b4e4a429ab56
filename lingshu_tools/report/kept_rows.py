"""Genes that an outcome keeps in its row: pages of them, and those that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lingshu_tools.calls.results import Truncated, call_text

LACKING = "not among the {n} genes that its row keeps: {genes}"
"""The caveat where genes are named that a row does not keep."""


@dataclass(frozen=True)
class KeptRows:
    """A page of the genes that an outcome keeps, largest first, or those that were named.

    Attributes:
        rows: of the page: `gene`, `value`, `se`.
        caveats: which of the named genes the row does not keep.
        truncated: what the page leaves out; None where it is whole.
    """

    rows: list[dict[str, Any]]
    caveats: list[str]
    truncated: Truncated | None


def kept_rows(
    result: Mapping[str, Any],
    name: str,
    *,
    limit: int,
    offset: int,
    genes: Sequence[str] | None = None,
    total: int | None = None,
    rest: str = "",
) -> KeptRows:
    """Return genes of an outcome's result, without the arrays that have them all.

    Args:
        result: of the outcome; `kept` are its genes.
        name: id of the experiment.
        limit: rows of a page.
        offset: rows that are skipped.
        genes: to show alone, by name without regard to case; None = the first by size.
        total: genes that the experiment has; by default those that are kept.
        rest: how the genes that are not kept can be had.
    """
    kept: list[dict[str, Any]] = result["kept"]
    total = len(kept) if total is None else total
    caveats: list[str] = []
    if genes is not None:
        known = {row["gene"].casefold(): row for row in kept}
        # Each gene once, in the order of the call.
        wanted = {gene.casefold(): gene for gene in genes}
        if lacking := [gene for key, gene in wanted.items() if key not in known]:
            caveats = [LACKING.format(n=len(kept), genes=", ".join(lacking))]
        # Cut after it is filtered: a named gene may stand anywhere in the row.
        kept = [known[key] for key in wanted if key in known]
        total = len(kept)
    rows = kept[offset : offset + limit]
    truncated = cut(len(rows), len(kept), name, offset, genes and [row["gene"] for row in kept])
    if truncated is not None:
        truncated = truncated.model_copy(update={"total": total})
    elif len(rows) < total and genes is None and rest:
        # The last page that the row has: another page would be empty.
        truncated = Truncated(shown=len(rows), total=total, how_to_get_more=rest)
    return KeptRows(rows, caveats, truncated)


def cut(
    shown: int, total: int, name: str, offset: int = 0, genes: Sequence[str] | None = None
) -> Truncated | None:
    """Return what a page of genes leaves out after it; None on the last page.

    Args:
        shown: genes on the page.
        total: genes over all pages.
        name: id of the experiment.
        offset: genes before the page.
        genes: that were named, over all pages; None = all genes, by the size of their change.
    """
    end = offset + shown
    # Without a row after it, or of a page beyond the end, another page would be empty.
    if end >= total:
        return None
    if genes is None:
        more = f'get_experiment(id="{name}", detail="effects", offset={end})'
        more = f"{more}, or name genes=[…]"
    else:
        more = call_text("get_experiment", id=name, genes=list(genes[end:]))
    return Truncated(shown=shown, total=total, how_to_get_more=more)

"""The genes of a user's file matched to a checkpoint's panel, with a report.

A gene of the file is `matched` where its name or Ensembl id is that of a panel gene, `renamed`
where it is a previous symbol or an alias of exactly one, and `ambiguous` where it is a name of
several genes, or where a panel gene has a better match in the file. Panel genes without a match are
`missing`: they are unmeasured, which is not a count of 0.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lingshu_model.train.data.compressed import DataError

LEAST_SHARE, LEAST_GENES = 0.01, 20
"""A file must measure this share of the panel, or this many genes of a smaller one."""
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{8,})(\.\d+)?$")
_SPECIES = {
    "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish", "ENSSSCG": "pig",
    "ENSBTAG": "cow", "ENSGALG": "chicken", "ENSMMUG": "macaque", "ENSCAFG": "dog",
}  # fmt: skip
_HUMAN_ID = "ENSG"
_MOST = 0.5


@dataclass(frozen=True)
class GeneReport:
    """What became of the genes of a file.

    Attributes:
        columns: panel position to column of the file, ascending positions.
        matched: number of genes with the panel's name or id.
        renamed: name in the file to symbol of the panel.
        ambiguous: name in the file to the symbols that it may mean.
        missing: panel symbols that the file does not measure.
        others: number of genes of the file that are not on the panel.
    """

    columns: Mapping[int, int]
    matched: int
    renamed: Mapping[str, str]
    ambiguous: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    others: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "matched": self.matched,
            "renamed": dict(self.renamed),
            "ambiguous": {name: list(symbols) for name, symbols in self.ambiguous.items()},
            "missing": list(self.missing),
            "others": self.others,
        }


def report(
    panel: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    ids: Sequence[str],
    known: Sequence[Mapping[str, Any]] = (),
) -> GeneReport:
    """Return the report of a file.

    Args:
        panel: genes of the checkpoint: `symbol`, `ensembl`, `aliases`, `previous`.
        names: genes of the file.
        ids: their Ensembl ids; empty where it has none.
        known: further genes, whose names are not those of panel genes: an approved symbol of one
            gene that is an alias of another means the first.

    Raises:
        DataError: hardly any gene is on the panel; the species is named where it shows.
    """
    symbols = [str(gene["symbol"]) for gene in panel]
    place = {symbol: i for i, symbol in enumerate(symbols)}
    by_id = {str(g["ensembl"]): i for i, g in enumerate(panel) if g.get("ensembl")}
    # Approved symbols of genes that are not on the panel.
    elsewhere = {str(g["symbol"]) for g in known} - place.keys()
    previous, aliases = (_by_name(panel, field) for field in ("previous", "aliases"))
    columns: dict[int, int] = {}
    left: list[int] = []
    # Without ids, a name may be an id itself.
    for column, (name, gene_id) in enumerate(zip(names, ids or names, strict=True)):
        found_at = place.get(name, by_id.get(bare(gene_id), by_id.get(bare(name))))
        # The first column of a panel gene counts; later ones are reported as ambiguous.
        if found_at is None or found_at in columns:
            left.append(column)
        else:
            columns[found_at] = column
    matched = len(columns)
    renamed: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    others = 0
    taken = set(columns)
    claims: dict[int, list[int]] = defaultdict(list)
    for column in left:
        name = names[column]
        # A previous symbol before an alias, as in training.
        candidates = [] if name in elsewhere else previous.get(name) or aliases.get(name) or []
        if not candidates:
            if name in place or bare(name) in by_id:
                ambiguous[name] = (symbols[place.get(name, by_id.get(bare(name), 0))],)
            else:
                others += 1
        # Its gene was matched by name already, and a gene has one column.
        elif len(candidates) > 1 or candidates[0] in taken:
            ambiguous[name] = tuple(symbols[i] for i in candidates)
        else:
            claims[candidates[0]].append(column)
    for position, claimed in claims.items():
        # Two columns claim one gene by old names: neither is taken.
        if len(claimed) == 1:
            columns[position] = claimed[0]
            renamed[names[claimed[0]]] = symbols[position]
        else:
            ambiguous |= {names[column]: (symbols[position],) for column in claimed}
    missing = tuple(symbol for i, symbol in enumerate(symbols) if i not in columns)
    result = GeneReport(dict(sorted(columns.items())), matched, renamed, ambiguous, missing, others)
    _check(result, symbols, names, ids)
    return result


def bare(gene_id: str) -> str:
    """Return an Ensembl id without its version; any other name as it is."""
    match = _ENSEMBL.match(gene_id)
    return match[1] if match else gene_id


def species_of(names: Iterable[str], symbols: Sequence[str]) -> str | None:
    """Return the species that gene names show, where it is not the panel's; else None."""
    names = list(names)
    prefixes = [re.sub(r"\d.*", "", name) for name in names if _ENSEMBL.match(name)]
    # A few ids of a spike-in species do not make the file one of that species.
    if len(prefixes) > _MOST * len(names):
        commonest = max(set(prefixes), key=prefixes.count)
        if commonest != _HUMAN_ID:
            return _SPECIES.get(commonest, f"another species ({commonest} ids)")
    panel = set(symbols)
    folded = {symbol.casefold() for symbol in panel}
    # Panel symbols but for capitals.
    others = [name for name in names if name not in panel and name.casefold() in folded]
    if len(others) > _MOST * max(1, len(names)) or len(others) > max(LEAST_GENES, len(panel) // 10):
        # Isg15 for ISG15: the convention of mouse and rat.
        titled = sum(name[:1].isupper() and name[1:].islower() for name in map(_letters, others))
        return "mouse or rat" if titled > _MOST * len(others) else None
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^A-Za-z]", "", name)


def _check(
    result: GeneReport, symbols: Sequence[str], names: Sequence[str], ids: Sequence[str]
) -> None:
    # On a panel of fewer than 40 genes half of them.
    needed = min(max(LEAST_GENES, LEAST_SHARE * len(symbols)), _MOST * len(symbols))
    species = species_of(names, symbols)
    # Some aliases are spelled as mouse symbols are, so such a file is never without a match.
    if len(result.columns) >= needed and (species is None or result.matched > len(names) / 2):
        return
    species = species or (species_of(ids, symbols) if ids else None)
    shown = ", ".join(map(repr, names[:3])) or "none"
    if species is not None:
        message = (
            f"the genes ({shown} …) are those of {species}, and the checkpoint's are human: "
            "replace each by its human ortholog (one to one, from Ensembl BioMart or HGNC HCOP), "
            "leave genes without one out, and save the file with these as the index of var"
        )
        raise DataError(message)
    message = (
        f"{len(result.columns):,} of the {len(symbols):,} genes of the checkpoint's panel are in "
        f"the file, whose genes are {shown} …; at least {needed:,.0f} are needed. Save the file "
        "with gene symbols or Ensembl ids as the index of var (adata.var_names)"
    )
    raise DataError(message)


def _by_name(panel: Sequence[Mapping[str, Any]], field: str) -> dict[str, list[int]]:
    """Return the panel positions of every former name or alias."""
    result: dict[str, list[int]] = defaultdict(list)
    for position, gene in enumerate(panel):
        for name in gene.get(field) or ():
            result[str(name)].append(position)
    return dict(result)

"""Gene names of a data file matched to a panel, through HGNC.

A name counts as the gene whose approved symbol it is; else, where exactly one gene ever had it, as
that gene (previous symbols before aliases). Ensembl ids are matched as they are, without their
version.
"""

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lingshu_model.contracts.catalogue import SHIPPED

SHIPPED_NAMES = "shipped"
"""Instead of a file of HGNC's: the 18,080 genes of the shipped panel, with their other names."""
_PANEL = SHIPPED / "pbmc" / "panel.json"
_HUMAN_ID = "ENSG"


@dataclass(frozen=True)
class Gene:
    """One gene of HGNC's complete set; `name` is its HGNC id."""

    name: str
    symbol: str
    ensembl: str | None
    aliases: tuple[str, ...]
    previous: tuple[str, ...]


@dataclass(frozen=True)
class Hgnc:
    """Every gene that has a symbol, findable by whatever it was called."""

    genes: Sequence[Gene] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "Hgnc":
        """Return HGNC's complete set (tab-separated, gzip), or the genes of a `panel.json`."""
        if path.suffix == ".json":
            return cls([_from_panel(row) for row in json.loads(path.read_text("utf-8"))["genes"]])
        with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
            rows = csv.DictReader(handle, delimiter="\t")
            return cls(
                [
                    Gene(
                        row["hgnc_id"],
                        row["symbol"],
                        row["ensembl_gene_id"] or None,
                        _names(row["alias_symbol"]),
                        _names(row["prev_symbol"]),
                    )
                    for row in rows
                ]
            )

    @cached_property
    def _by_symbol(self) -> dict[str, Gene]:
        return {gene.symbol: gene for gene in self.genes}

    @cached_property
    def _by_ensembl(self) -> dict[str, Gene]:
        return {gene.ensembl: gene for gene in self.genes if gene.ensembl}

    @cached_property
    def _by_previous(self) -> dict[str, Gene]:
        return _unambiguous((name, gene) for gene in self.genes for name in gene.previous)

    @cached_property
    def _by_alias(self) -> dict[str, Gene]:
        return _unambiguous((name, gene) for gene in self.genes for name in gene.aliases)

    def find(self, name: str) -> Gene | None:
        """Return the one gene that `name` means, or None."""
        if name.startswith("ENSG"):
            return self._by_ensembl.get(name.split(".")[0])
        # An approved symbol wins over the same text as an old name of another gene.
        return self._by_symbol.get(name) or self._by_previous.get(name) or self._by_alias.get(name)


def names_file(aliases: str | None, folder: Path) -> Path | None:
    """Return the file that a specification's `aliases` means; None = symbols alone."""
    if aliases is None:
        return None
    return _PANEL if aliases == SHIPPED_NAMES else folder / aliases


def symbols_of(names: Sequence[str], hgnc: Hgnc) -> list[str]:
    """Return symbols for human Ensembl ids; ids without one, or with one taken, stay."""
    genes_by_name = [hgnc.find(name) if name.startswith(_HUMAN_ID) else None for name in names]
    # Names that stay are taken first, so that no converted id becomes equal to one of them.
    seen = {name for name, gene in zip(names, genes_by_name, strict=True) if gene is None}
    out: list[str] = []
    for name, gene in zip(names, genes_by_name, strict=True):
        out.append(name if gene is None or gene.symbol in seen else gene.symbol)
        seen.add(out[-1])
    return out


def match(panel: Sequence[str], names: Sequence[str], hgnc: Hgnc | None) -> dict[int, int]:
    """Return panel position to file position of the genes a file measures.

    The panel's own spelling comes first; then what HGNC says is the same gene. Where a file names a
    gene twice, its first column counts.
    """
    # Reversed, so that of a name that occurs twice the first column is kept.
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    genes_by_name = {i: place[symbol] for i, symbol in enumerate(panel) if symbol in place}
    if hgnc is None:
        return genes_by_name
    taken = set(genes_by_name.values())
    columns: dict[str, int] = {}
    for column, name in enumerate(names):
        gene = None if column in taken else hgnc.find(name)
        if gene is not None:
            # The first column that means the gene.
            columns.setdefault(gene.name, column)
    for i, symbol in enumerate(panel):
        gene = None if i in genes_by_name else hgnc.find(symbol)
        if gene is not None and gene.name in columns:
            genes_by_name[i] = columns[gene.name]
    return dict(sorted(genes_by_name.items()))


def _from_panel(row: Mapping[str, Any]) -> Gene:
    symbol = row["symbol"]
    return Gene(symbol, symbol, row["ensembl"], tuple(row["aliases"]), tuple(row["previous"]))


def _names(cell: str) -> tuple[str, ...]:
    return tuple(name for name in cell.strip('"').split("|") if name)


def _unambiguous(pairs: Iterable[tuple[str, Gene]]) -> dict[str, Gene]:
    genes_by_name: dict[str, list[Gene]] = defaultdict(list)
    for name, gene in pairs:
        genes_by_name[name].append(gene)
    # A name of two genes means neither.
    return {name: genes[0] for name, genes in genes_by_name.items() if len(genes) == 1}

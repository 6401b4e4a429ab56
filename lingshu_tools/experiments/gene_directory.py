"""Which names are those of real genes, whether a checkpoint measures them or not.

Names are those of the largest shipped panel and of `further_genes.tsv` (together HGNC's
protein-coding genes), and of `other_gene_names.tsv`, a reviewed table of proteins, families and
other species' genes.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Catalogue, CheckpointError
from lingshu_model.contracts.catalogue import SHIPPED

_GREEK = {0x3B1: "alpha", 0x3B2: "beta", 0x3B3: "gamma", 0x3B4: "delta", 0x3BA: "k"}
"""Small Greek letters; kappa stands for k in NF-kB."""
_FURTHER = Path(__file__).parent / "further_genes.tsv"
_OTHER_NAMES = Path(__file__).parent / "other_gene_names.tsv"


def plain(name: str) -> str:
    """Return a name without case and punctuation, Greek letters spelled out."""
    return "".join(c for c in name.casefold().translate(_GREEK) if c.isalnum())


def real_genes(name: str) -> tuple[str, ...]:
    """Return the human genes of a name, an official symbol before all other names; () = no gene."""
    key = plain(name)
    symbols, others = _names()
    if key in symbols:
        return (symbols[key],)
    # The reviewed table comes before aliases: the usual name of a protein or family wins.
    return _common().get(key) or tuple(sorted(others.get(key, ())))


@lru_cache(maxsize=1)
def _names() -> tuple[dict[str, str], dict[str, set[str]]]:
    symbols: dict[str, str] = {}
    others: dict[str, set[str]] = defaultdict(set)

    def add(symbol: str, names: Iterable[str]) -> None:
        symbols.setdefault(plain(symbol), symbol)
        for name in names:
            if len(plain(name)) > 1:
                others[plain(name)].add(symbol)

    for symbol, names in _table(_FURTHER):
        add(symbol, names)
    catalogue = Catalogue([SHIPPED])
    panels: list[list[dict[str, Any]]] = []
    for name in catalogue.names():
        # One that is damaged leaves the others and the table of further genes.
        with suppress(CheckpointError):
            panels.append(catalogue.load(name).panel_entries)
    # The largest panel has the most names with aliases.
    entries = max(panels, key=len, default=[])
    for entry in entries:
        ensembl = [entry["ensembl"]] if entry.get("ensembl") else []
        add(
            entry["symbol"],
            [*ensembl, *(entry.get("aliases") or []), *(entry.get("previous") or [])],
        )
    return symbols, others


@lru_cache(maxsize=1)
def _common() -> dict[str, tuple[str, ...]]:
    return {name: tuple(genes) for name, genes in _table(_OTHER_NAMES)}


def _table(path: Path) -> Iterable[tuple[str, list[str]]]:
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            first, _, names = line.partition("\t")
            yield first, [n for n in names.split("|") if n]

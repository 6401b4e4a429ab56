"""Which names are those of real genes, whether a checkpoint measures them or not.

Names are those of the largest shipped panel and of `further_genes.tsv` (together HGNC's
protein-coding genes), and of a reviewed table of proteins and families that HGNC does not list.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lingshu_model.contracts import Catalogue, CheckpointError
from lingshu_model.contracts.catalogue import SHIPPED

_GREEK = {0x3B1: "alpha", 0x3B2: "beta", 0x3B3: "gamma", 0x3B4: "delta", 0x3BA: "k"}
"""Small Greek letters; kappa stands for k in NF-kB."""
_FURTHER = Path(__file__).parent / "further_genes.tsv"
COMMON: dict[str, tuple[str, ...]] = {
    "cd3": ("CD3D", "CD3E", "CD3G"),
    "cd8": ("CD8A", "CD8B"),
    "cd16": ("FCGR3A", "FCGR3B"),
    "cd32": ("FCGR2A", "FCGR2B", "FCGR2C"),
    "cd66": ("CEACAM1", "CEACAM3", "CEACAM5", "CEACAM6", "CEACAM8"),
    "hladr": ("HLA-DRA", "HLA-DRB1"),
    "hladq": ("HLA-DQA1", "HLA-DQB1"),
    "hladp": ("HLA-DPA1", "HLA-DPB1"),
    "mhci": ("HLA-A", "HLA-B", "HLA-C", "B2M"),
    "mhcii": ("HLA-DRA", "HLA-DRB1", "HLA-DQA1", "HLA-DQB1", "HLA-DPA1", "HLA-DPB1"),
    "ifna": ("IFNA1", "IFNA2"),
    "ifnalpha": ("IFNA1", "IFNA2"),
    "ifnb": ("IFNB1",),
    "ifnbeta": ("IFNB1",),
    "ifngamma": ("IFNG",),
    "nfkb": ("NFKB1", "RELA"),
    "p65": ("RELA",),
    "p53": ("TP53",),
    "trp53": ("TP53",),
    "stat5": ("STAT5A", "STAT5B"),
    "ampk": ("PRKAA1", "PRKAA2"),
    "erk": ("MAPK1", "MAPK3"),
    "pi3k": ("PIK3CA", "PIK3CB", "PIK3CD", "PIK3CG"),
    "ras": ("HRAS", "KRAS", "NRAS"),
}
"""Names of proteins, families and other species' genes, plain, and the human genes of each."""


def plain(name: str) -> str:
    """Return a name without case and punctuation, Greek letters spelled out."""
    return "".join(c for c in name.casefold().translate(_GREEK) if c.isalnum())


def real_genes(name: str) -> tuple[str, ...]:
    """Return the human genes of a name, an official symbol before all other names; () = no gene."""
    key = plain(name)
    symbols, others = _names()
    if key in symbols:
        return (symbols[key],)
    return COMMON.get(key) or tuple(sorted(others.get(key, ())))


@lru_cache(maxsize=1)
def _names() -> tuple[dict[str, str], dict[str, set[str]]]:
    symbols: dict[str, str] = {}
    others: dict[str, set[str]] = defaultdict(set)

    def add(symbol: str, names: Iterable[str]) -> None:
        symbols.setdefault(plain(symbol), symbol)
        for name in names:
            if len(plain(name)) > 1:
                others[plain(name)].add(symbol)

    for symbol, names in _further():
        add(symbol, names)
    try:
        entries = Catalogue([SHIPPED]).load("pbmc").panel_entries
    except CheckpointError:
        entries = []  # the table of further genes and the checkpoint's own panel remain
    for entry in entries:
        ensembl = [entry["ensembl"]] if entry.get("ensembl") else []
        add(
            entry["symbol"],
            [*ensembl, *(entry.get("aliases") or []), *(entry.get("previous") or [])],
        )
    return symbols, others


def _further() -> Iterable[tuple[str, list[str]]]:
    for line in _FURTHER.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            symbol, _, names = line.partition("\t")
            yield symbol, [n for n in names.split("|") if n]

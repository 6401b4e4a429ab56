"""Gene names: what a user calls a gene, resolved to the panel's symbol.

A symbol, an Ensembl id (with or without version), an alias or a previous symbol will do, whatever
the case; a name that fits several genes is refused. A gene that exists and is not on the panel is
told apart from a name that no gene has, and no similar name is offered for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lingshu_model.contracts import Checkpoint
from lingshu_tools.errors import NotFoundError, did_you_mean, quoted
from lingshu_tools.experiments.gene_directory import plain, real_genes

# In this order: a current symbol is never taken for another gene's old one.
_NAME_KINDS = ("symbol", "ensembl", "alias", "previous symbol")


class UnmeasuredGeneError(NotFoundError):
    """The gene exists, and the panel does not measure it."""


@dataclass(frozen=True)
class Match:
    """A gene found: its panel position and symbol, and by which kind of name."""

    index: int
    symbol: str
    matched_by: str


class GeneNames:
    """Every name of a panel's genes."""

    def __init__(self, entries: Sequence[dict[str, Any]], checkpoint: str) -> None:
        self.symbols = [entry["symbol"] for entry in entries]
        self._checkpoint = checkpoint
        self._plain: dict[str, set[int]] = defaultdict(set)
        # One index for each kind of name: name to positions of the genes that bear it.
        self._indexes: list[dict[str, set[int]]] = [defaultdict(set) for _ in _NAME_KINDS]
        for index, entry in enumerate(entries):
            names = (
                [entry["symbol"]],
                [entry["ensembl"]] if entry.get("ensembl") else [],
                entry.get("aliases") or [],
                entry.get("previous") or [],
            )
            for by_name, listed in zip(self._indexes, names, strict=True):
                for name in listed:
                    by_name[_key(name)].add(index)
                    self._plain[plain(name)].add(index)

    @property
    def panel(self) -> str:
        """The panel as messages name it."""
        return f"the {len(self.symbols)}-gene panel of {self._checkpoint!r}"

    def find(self, name: str) -> Match:
        """Return the gene of a name; a current symbol wins over every older one.

        Raises:
            NotFoundError: no gene, or several, of that name; the nearest names are given.
        """
        key = _key(name)
        for label, index in zip(_NAME_KINDS, self._indexes, strict=True):
            indices = sorted(index.get(key, ()))
            if len(indices) > 1:
                several = ", ".join(self.symbols[i] for i in indices)
                message = (
                    f"{quoted(name)} is a {label} of several genes: {several}. Name one of these."
                )
                raise NotFoundError(message)
            if indices:
                return Match(indices[0], self.symbols[indices[0]], label)
        # Spellings come last: they ignore case, hyphens and the script of Greek letters.
        spelled = self._plain.get(plain(name), set())
        if len(spelled) == 1:
            (index,) = spelled
            return Match(index, self.symbols[index], "spelling")
        return self._by_other_name(name)

    def _by_other_name(self, name: str) -> Match:
        """Return the gene that is called so elsewhere: proteins, families, other species."""
        panel = self.panel
        genes = real_genes(name)
        # Those of the genes that the panel measures.
        here = [g for g in genes if g in self._indexes[0] or _key(g) in self._indexes[0]]
        if len(genes) == 1 and here:
            (index,) = sorted(self._indexes[0][_key(genes[0])])[:1]
            return Match(index, self.symbols[index], "other name")
        if len(genes) > 1 and here:
            message = (
                f"{quoted(name)} is a name of several genes: {', '.join(genes)}. On {panel} are "
                f"{', '.join(here)}: name one of these."
            )
            raise NotFoundError(message)
        if genes:
            which = "" if _key(genes[0]) == _key(name) else f" ({', '.join(genes)})"
            message = (
                f"{quoted(name)}{which} is a gene that {panel} does not measure, so nothing is "
                "known of its expression; describe_model lists other checkpoints."
            )
            raise UnmeasuredGeneError(message)
        message = (
            f"no gene {quoted(name)} in {panel}, and no human gene of that name is known."
            f"{did_you_mean(name, self.symbols)} find_genes searches by part of a name."
        )
        raise NotFoundError(message)

    def search(self, query: str) -> list[Match]:
        """Return the genes with a name that contains `query`, in panel order."""
        key = _key(query)
        matches: dict[int, Match] = {}
        for label, index in zip(_NAME_KINDS, self._indexes, strict=True):
            for name, indices in index.items():
                if key in name:
                    for i in indices:
                        # The first kind of name that fits is the one that is said.
                        matches.setdefault(i, Match(i, self.symbols[i], label))
        return [matches[i] for i in sorted(matches)]


def gene_names(checkpoint: Checkpoint) -> GeneNames:
    """Return the gene names of a checkpoint, made once for each checkpoint digest."""
    return _built(_Once(checkpoint))


def resolve_genes(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Return panel symbols in the order asked, each once.

    Raises:
        NotFoundError: names are unknown or not measured; all of them are given.
    """
    known, symbols = gene_names(checkpoint), list[str]()
    refused: dict[str, NotFoundError] = {}
    for name in dict.fromkeys(names):
        try:
            symbols.append(known.find(name).symbol)
        except NotFoundError as error:
            refused[name] = error
    if refused:
        raise refusal_of(refused, known.panel)
    return list(dict.fromkeys(symbols))


def refusal_of(refused: Mapping[str, NotFoundError], panel: str) -> NotFoundError:
    """Return one error for all names of a list that were refused, each with its own.

    Args:
        refused: the error of each name.
        panel: whose names they should be, as a phrase.
    """
    replacing: dict[str, str | None] = {}
    for name, error in refused.items():
        replacing |= error.replacing or {name: None}
    unmeasured = {n: e for n, e in refused.items() if isinstance(e, UnmeasuredGeneError)}
    kind = UnmeasuredGeneError if len(unmeasured) == len(refused) else NotFoundError
    if len(refused) == 1:
        (error,) = refused.values()
        return kind(str(error), replacing)
    parts: list[str] = []
    if len(unmeasured) > 1:
        names = ", ".join(quoted(name) for name in unmeasured)
        parts.append(
            f"{names} are genes that {panel} does not measure, so nothing is known of their "
            "expression; describe_model lists other checkpoints."
        )
    others = {n: e for n, e in refused.items() if len(unmeasured) == 1 or n not in unmeasured}
    parts += [f"{str(error)[:1].upper()}{str(error)[1:]}" for error in others.values()]
    return kind(f"{len(refused)} names cannot be used. {' '.join(parts)}", replacing)


class _Once:
    """A checkpoint that hashes by its digest, since the dataclass holds dictionaries."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __hash__(self) -> int:
        return hash(self.checkpoint.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and other.checkpoint.digest == self.checkpoint.digest


@lru_cache(maxsize=8)
def _built(once: _Once) -> GeneNames:
    return GeneNames(once.checkpoint.panel_entries, once.checkpoint.name)


def _key(name: str) -> str:
    key = name.strip().casefold()
    # ENSG00000123456.7: the version says nothing of which gene it is.
    return key.split(".")[0] if key.startswith("ensg") else key

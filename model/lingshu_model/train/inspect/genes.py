"""What the genes of a file are called."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from lingshu_model.train.data.features import Features, features_of, id_column
from lingshu_model.train.data.gene_names import SHIPPED_NAMES, Hgnc, names_file, symbols_of
from lingshu_model.train.data.h5ad import (
    repeated_names,
    unique_names,
    without_versions,
    words_of_repeated,
)
from lingshu_model.train.data.labels import texts

_ENSEMBL = re.compile(r"^ENS([A-Z]{0,4})G\d{8,}(\.\d+)?$")
_SPECIES = {
    "ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish",
    "ENSSSCG": "pig", "ENSBTAG": "cow", "ENSGALG": "chicken", "ENSMMUG": "macaque",
    "ENSCAFG": "dog", "ENSOCUG": "rabbit", "ENSPTRG": "chimpanzee",
}  # fmt: skip
_HUMAN = "human"
# What was done, before or after the name of a gene.
_ACTIONS = r"ko|kd|oe|knock[ _-]?(?:out|down)|crispr[ia]?|null|del|deleted"
# `sgSTAT1`: small letters before a capital, since GCAT is no guide of CAT.
_BEFORE = re.compile(rf"^(?:(?:sg|si|sh|g)(?=[A-Z])|(?i:(?:sg|si|sh|{_ACTIONS})[ _-]))")
_AFTER = re.compile(rf"(?:[ _-](?:{_ACTIONS})|[ _]?[-+]/-|[ _]?\((?:{_ACTIONS})\))$", re.IGNORECASE)
_NAMES = (
    "gene_symbol", "gene_symbols", "symbol", "symbols", "gene_name", "gene_names", "feature_name",
    "gene_short_name", "hgnc_symbol", "external_gene_name", "name",
)  # fmt: skip


@dataclass(frozen=True)
class GeneNames:
    """How a file names its genes.

    Attributes:
        column: the var column with their symbols; None = the index.
        words: what the names are, for people.
        names: of the genes, as training reads them.
        repeated: a name that two genes have, where there is one.
        human: whether Ensembl ids say so.
    """

    column: str | None
    words: str
    names: frozenset[str]
    repeated: str | None
    human: bool = False
    by_id: Mapping[str, str] = field(default_factory=dict[str, str])
    """Ensembl id without its version to the gene's name, where the index has ids."""
    notes: tuple[tuple[str, str], ...] = ()
    """What a person should know, each with what to do about it."""

    def called(self, label: str) -> str | None:
        """Return the gene that a label means, else None.

        By its Ensembl id, but for capitals, or with a word for what was done: `STAT1-KO`.
        """
        if label in self.names:
            return None
        # Ids first: a symbol in other capitals may be another gene.
        for name in (label, _bare(label)):
            gene = self.by_id.get(name.split(".")[0]) or self._folded.get(name.casefold())
            if gene:
                return gene
        return None

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Names in small letters to names, of those that differ in more than capitals."""
        times = Counter(name.casefold() for name in self.names)
        return {n.casefold(): n for n in self.names if times[n.casefold()] == 1}


def gene_names(var: pd.DataFrame, column: str | None) -> GeneNames:
    """Return how genes are named; a column with symbols is taken where the index has ids.

    Rows of `var` that are no genes are not looked at.
    """
    features = features_of(var)
    var = features.of(var)
    notes = _notes_on(features)
    index: list[str] = texts(var.index.to_series()).values.tolist()
    ids = _ids_in(index)
    if column is None and ids:
        column = _symbol_column(var)
    if column is not None:
        values: list[str] = texts(pd.Series(var[column])).values.tolist()
        if not _ids_in(values):
            words = f"symbols in var[{column!r}]" + f", ids in its index ({_of(ids)})" * bool(ids)
            by_id = _by_id(index, values) if ids else {}
            human = _of(ids) == _HUMAN
            return GeneNames(column, words, frozenset(values), None, human, by_id, notes)
        # A column of ids is read as an index of ids is; the index stands in for repeated ids.
        index, ids = unique_names(values, index), _ids_in(values)
    if not ids:
        return _symbols(var, index, notes)
    place = "" if column is None else f" in var[{column!r}]"
    versions = ", with versions, which are left out" if any(m[2] for m in ids) else ""
    words = f"Ensembl ids{place}, {_of(ids)}{versions}"
    twice = next(iter(repeated_names(index)), None)
    if _of(ids) != _HUMAN:
        # Training leaves versions out, and so labels with another version are matched.
        names = without_versions(index)
        by_id = _by_id(index, names)
        return GeneNames(column, words, frozenset(names), twice, by_id=by_id, notes=notes)
    # Human ids are shown under their symbols, as training will call them.
    hgnc = Hgnc.read(names_file(SHIPPED_NAMES, Path()) or Path())
    named = symbols_of(without_versions(index), hgnc)
    known = sum(not _ENSEMBL.match(name) for name in named)
    words += f"; {known:,} by their HGNC symbols"
    by_id = _by_id(index, named)
    return GeneNames(column, words, frozenset(named), twice, human=True, by_id=by_id, notes=notes)


def _symbols(var: pd.DataFrame, index: list[str], notes: tuple[tuple[str, str], ...]) -> GeneNames:
    """Return the names of an index of symbols; ids of another column stand in for repeated ones."""
    column, repeated = id_column(var), repeated_names(index)
    ids = [] if column is None else texts(pd.Series(var[column])).values.tolist()
    if repeated and column is not None:
        index = unique_names(index, without_versions(ids))
        remedy = f"Say --gene-names {column} to call all genes by their ids"
        notes = (*notes, (words_of_repeated(repeated, column), remedy))
    twice = next(iter(repeated_names(index)), None)
    by_id = _by_id(ids, index) if ids else {}
    return GeneNames(None, "symbols", frozenset(index), twice, by_id=by_id, notes=notes)


def _notes_on(features: Features) -> tuple[tuple[str, str], ...]:
    if not features.words:
        return ()
    return ((features.words, f"Remove var[{features.column!r}] to train on them as genes"),)


def _ids_in(names: Sequence[str]) -> list["re.Match[str]"]:
    """Return the ids among names if nearly all are ids, else none."""
    ids = [m for name in names if (m := _ENSEMBL.match(name))]
    # A few features may be no genes of the genome, such as a reporter.
    return ids if len(ids) >= 0.9 * max(1, len(names)) else []


def _bare(label: str) -> str:
    """Return a label without the word for what was done to a gene."""
    return _BEFORE.sub("", _AFTER.sub("", label))


def _by_id(index: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    pairs = zip(index, names, strict=True)
    return {gene_id.split(".")[0]: name for gene_id, name in pairs if name}


def _symbol_column(var: pd.DataFrame) -> str | None:
    folded = {str(name).casefold(): str(name) for name in var.columns}
    for name in _NAMES:
        if name in folded:
            values = texts(pd.Series(var[folded[name]])).values
            # A column may be nearly empty, or repeat the ids under the name of symbols.
            if (values != "").mean() > 0.5 and not all(_ENSEMBL.match(v) for v in values[:100]):
                return folded[name]
    return None


def _of(ids: Sequence["re.Match[str]"]) -> str:
    common = Counter(match[1] for match in ids).most_common(1)
    return _SPECIES.get(f"ENS{common[0][0]}G", "another species") if common else "another species"

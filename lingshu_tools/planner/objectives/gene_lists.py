"""Lists of genes in an objective: genes by name, gene sets by name or of a GMT file, plain files.

An item may end with its weight, as in `STAT1:2`. A gene set is scored on the genes of it that the
panel measures, and how many these are is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Checkpoint
from lingshu_tools.errors import InputError, NotFoundError, did_you_mean, quoted
from lingshu_tools.experiments.gene_names import UnmeasuredGeneError, gene_names, refusal_of
from lingshu_tools.experiments.gene_sets import SHIPPED, GeneSets, genes_by_name, read_collection
from lingshu_tools.experiments.roots import Roots
from lingshu_tools.planner.candidates import with_match
from lingshu_tools.planner.rules import read_gene_sets

LARGEST_WEIGHT = 1000.0
LARGEST_LIST = 5_000_000
"""Bytes of a file of genes."""
HEADS = ("gene", "genes", "symbol", "gene_symbol", "target")
"""First lines of a file of genes that name its column."""
_WEIGHT = re.compile(r"(.*\S)\s*:\s*([-+]?[\d.]+(?:e[-+]?\d+)?|[-+]?(?:nan|inf)\w*)", re.IGNORECASE)


@dataclass(frozen=True)
class UsedSet:
    """A gene set of an objective.

    Attributes:
        name: of the set.
        digest: of the file or collection that it is from.
        n_genes: genes of it.
        measured: those that the panel measures, as panel symbols.
    """

    name: str
    digest: str
    n_genes: int
    measured: tuple[str, ...]

    @property
    def words(self) -> str:
        """Its name and coverage."""
        return f"{self.name} ({len(self.measured)} of {self.n_genes} genes measured)"

    @property
    def record(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "measured": list(self.measured)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> UsedSet:
        """Return what `record` kept."""
        measured = tuple(record["measured"])
        return cls(record["name"], record["digest"], record["n_genes"], measured)


@dataclass(frozen=True)
class GeneList:
    """Genes of an objective with their weights, and the sets that some of them are from."""

    weights: dict[str, float]
    sets: tuple[UsedSet, ...]


def weighted(text: str) -> tuple[str, float]:
    """Return an item of a list without its weight, and the weight; 1 where it has none.

    Raises:
        InputError: the weight is not above 0 and finite.
    """
    match = _WEIGHT.fullmatch(text.strip())
    if match is None:
        return text.strip(), 1.0
    try:
        weight = float(match[2])
    except ValueError:
        weight = math.nan
    if not 0 < weight <= LARGEST_WEIGHT:
        message = (
            f"{quoted(text)} has the weight {match[2]}; a weight is above 0 and at most "
            f'{LARGEST_WEIGHT:g}, such as "{match[1][:60]}:2"'
        )
        raise InputError(message)
    return match[1].strip(), weight


def measured_genes(
    checkpoint: Checkpoint, items: Sequence[str], home: Path, argument: str
) -> GeneList:
    """Return the panel genes that a list names; a gene of several sets has the sum of weights.

    Raises:
        InputError: a name is neither a gene of the panel nor a set, none of a set is measured, or
            a gene has two weights.
    """
    alone: dict[str, float] = {}
    total: dict[str, float] = {}
    sets: list[UsedSet] = []
    refused: dict[str, NotFoundError] = {}
    for item in items:
        name, weight = weighted(item)
        try:
            used = _gene_or_set(checkpoint, name, home, argument)
        except NotFoundError as error:
            refused[name] = error
            continue
        if isinstance(used, str):
            if alone.setdefault(used, weight) != weight:
                message = (
                    f"{argument} names {used} with the weights {alone[used]:g} and {weight:g}; "
                    "name it once"
                )
                raise InputError(message)
            continue
        if used in sets:
            message = f"{argument} names the set {quoted(used.name)} twice; name it once"
            raise InputError(message)
        sets.append(used)
        for gene in used.measured:
            total[gene] = total.get(gene, 0.0) + weight
    if refused:
        raise refusal_of(refused, gene_names(checkpoint).panel)
    for gene, weight in alone.items():
        total[gene] = total.get(gene, 0.0) + weight
    return GeneList({gene: total[gene] for gene in sorted(total)}, tuple(sets))


def gene_symbols(
    checkpoint: Checkpoint, items: Sequence[str], home: Path, argument: str
) -> tuple[str, ...]:
    """Return the names of genes as targets are called, of a list, of sets and of files of genes.

    Genes that are not on the panel stay in it by the name that they are given: they may be targets.

    Raises:
        InputError: a name that is no gene, set or file that may be read.
    """
    names: list[str] = []
    refused: dict[str, NotFoundError] = {}
    for item in items:
        if item.endswith((".txt", ".tsv", ".csv")):
            names += _file_of_genes(item, home, argument)
            continue
        genes = _set(item, home, argument) if _is_set(item) else None
        if genes is None:
            genes = _named_set(item, home)
        try:
            names += [_symbol(checkpoint, item)] if genes is None else genes[0]
        except NotFoundError as error:
            # "JAK2 activation": a trained target with a kind that is not.
            refused[item] = with_match(checkpoint, item, error)
    if refused:
        raise refusal_of(refused, gene_names(checkpoint).panel)
    places = genes_by_name(checkpoint)
    return tuple(
        sorted(
            {checkpoint.panel[places[n.casefold()]] if n.casefold() in places else n for n in names}
        )
    )


def _gene_or_set(checkpoint: Checkpoint, name: str, home: Path, argument: str) -> str | UsedSet:
    if not name:
        message = f"{argument} has an empty name; give genes or gene sets"
        raise InputError(message)
    genes = _set(name, home, argument) if _is_set(name) else None
    if genes is None:
        try:
            return gene_names(checkpoint).find(name).symbol
        except UnmeasuredGeneError:
            raise
        except NotFoundError as error:
            genes = _named_set(name, home)
            if genes is None:
                message = f"{error}{_no_set(name, home)}"
                raise NotFoundError(message) from error
    members, digest = genes
    places = genes_by_name(checkpoint)
    measured = sorted({places[g.casefold()] for g in members if g.casefold() in places})
    if not measured:
        message = (
            f"{argument} has the gene set {quoted(name)}, and {checkpoint.name!r} measures none of "
            f"its {len(members)} genes; find_genes lists what it measures"
        )
        raise InputError(message)
    symbols = tuple(sorted(checkpoint.panel[place] for place in measured))
    return UsedSet(name, digest, len(members), symbols)


def _is_set(name: str) -> bool:
    """Return whether a name is of a GMT file, as `FILE.gmt` or `FILE.gmt#SET`."""
    return name.split("#")[0].endswith(".gmt")


def _set(name: str, home: Path, argument: str) -> tuple[Sequence[str], str]:
    """Return the genes of a set in a GMT file, and the file's digest."""
    path, _, wanted = name.partition("#")
    read = read_collection(str(Roots(home).allowed(path)))
    if not wanted and len(read.sets) == 1:
        wanted = next(iter(read.sets))
    if wanted not in read.sets:
        first = ", ".join(list(read.sets)[:5])
        message = (
            f"{argument} has {quoted(name)}: the file has {len(read.sets)} sets ({first} …); name "
            f"one as {quoted(f'{path}#{next(iter(read.sets))}')}.{did_you_mean(wanted, read.sets)}"
        )
        raise NotFoundError(message)
    return read.sets[wanted], read.digest


@lru_cache(maxsize=2)
def _shipped(name: str) -> GeneSets:
    return read_collection(name)


def _named_set(name: str, home: Path) -> tuple[Sequence[str], str] | None:
    """Return the genes of a set of the home or of a shipped collection, and a digest."""
    there = read_gene_sets(home)
    if name in there:
        return there[name], "home"
    for collection in map(_shipped, SHIPPED):
        by_fold = {title.casefold(): title for title in collection.sets}
        title = by_fold.get(name.casefold())
        if title is not None:
            return collection.sets[title], collection.digest
    return None


def _no_set(name: str, home: Path) -> str:
    names: Iterable[str] = [t for c in map(_shipped, SHIPPED) for t in c.sets]
    near = did_you_mean(name, [*names, *read_gene_sets(home)])
    return f" Nor is it a gene set of {', '.join(SHIPPED)} or of this home.{near}"


def _symbol(checkpoint: Checkpoint, name: str) -> str:
    """Return the symbol of a gene, or a target's name, on the panel or not."""
    targets = {t.casefold(): t for names in checkpoint.targets.values() for t in names}
    if name.strip().casefold() in targets:
        return targets[name.strip().casefold()]
    try:
        return gene_names(checkpoint).find(name).symbol
    except UnmeasuredGeneError:
        return name.strip()


def _file_of_genes(given: str, home: Path, argument: str) -> list[str]:
    """Return the first column of a file with a gene in each line."""
    path = Roots(home).allowed(given)
    try:
        if path.stat().st_size > LARGEST_LIST:
            message = f"{quoted(given)} has more than {LARGEST_LIST:,} bytes; give a list of genes"
            raise InputError(message)
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{argument}: {quoted(given)} cannot be read as text ({error})"
        raise InputError(message) from error
    names = [re.split(r"[\t,;]", line)[0].strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    names = names[1:] if names and names[0].casefold() in HEADS else names
    if not names:
        message = f"{argument}: {quoted(given)} names no gene; write one in each line"
        raise InputError(message)
    return names

"""Columns of obs: what each holds, and which name the perturbation, the context, the replicate.

Columns are judged by the words of their names and by their labels, never by the file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lingshu_model.train.data.controls import may_mean_control, means_control
from lingshu_model.train.data.labels import UNKNOWN, texts

FEWEST_IN_CONTEXT = 10
"""Control and perturbed cells that a context needs to count as covered."""
# Labels of a perturbation column, and of a context column, at most.
MOST_LABELS = 30_000
MOST_CONTEXTS = 300
# Points for a word of a column's name: how often it names what was done to a cell.
_PERTURBATION_WORDS = {
    "perturbation": 5, "perturbations": 5, "pert": 5, "condition": 4, "treatment": 4, "drug": 4,
    "compound": 4, "gene": 3, "target": 4, "stim": 4, "stimulus": 3, "stimulation": 3,
    "cytokine": 4, "agent": 3, "guide": 3, "guides": 3, "sgrna": 3, "grna": 3, "knockout": 4,
    "ko": 4, "genotype": 3, "feature": 1, "group": 1, "status": 1, "label": 1, "identity": 1,
    "perturb": 5, "perturbed": 5, "intervention": 4, "treated": 4, "stimulated": 4, "product": 4,
    "molecule": 3, "ligand": 4, "inhibitor": 3, "knockdown": 4, "kd": 3, "sirna": 4, "shrna": 4,
    "crispr": 3, "mutation": 3, "variant": 3, "construct": 3, "orf": 3, "infection": 3,
    "infected": 3, "exposure": 3, "challenge": 3, "edited": 3, "transduced": 3, "targets": 4,
}  # fmt: skip
# Words of columns about a cell's quality, kind or design; each takes two points off.
_OTHER_WORDS = {"type", "count", "counts", "num", "n", "umi", "umis", "cell", "cluster", "batch",
                "score", "dose", "time", "id", "name", "celltype", "nperts", "control"}  # fmt: skip
_GUIDE_WORDS = {"guide", "guides", "sgrna", "sgrnas", "grna", "grnas", "sg", "barcode", "oligo"}
# In order of preference.
CONTEXT_NAMES = (
    "cell_type", "celltype", "cell_line", "cellline", "cell_class", "celltypes", "cell_types",
    "cell_name", "annotation", "cell_label", "cell_ontology_class", "cluster", "louvain", "leiden",
    "seurat_clusters", "tissue", "tissue_general", "organ", "region", "subpop",
)  # fmt: skip
_PLACE_NAMES = {"tissue", "tissue_general", "organ", "region", "cluster", "louvain", "leiden",
                "seurat_clusters", "subpop"}  # fmt: skip
PERSON_WORDS = {"donor", "patient", "individual", "subject", "animal", "mouse", "person"}
REPLICATE_WORDS = {"rep", "replicate", "replicates", "biorep", "batch", "gemgroup", "lane",
                   "sample", "well", "library", "gem"}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of obs.

    Attributes:
        name: of the column.
        codes: the number of each cell's label in `labels`; -1 where it is missing.
        labels: the distinct labels.
        numeric: whether it is stored as numbers or truth values.
    """

    name: str
    codes: NDArray[np.int64]
    labels: tuple[str, ...]
    numeric: bool

    @classmethod
    def of(cls, obs: pd.DataFrame, name: str) -> "Column":
        """Return a column of a table."""
        series = pd.Series(obs[name])
        column_texts = texts(series)
        labels, inverse = np.unique(column_texts.values, return_inverse=True)
        missing = column_texts.missing()
        # A label is kept if any of its cells has it; texts such as `NA` are missing in all.
        keep = (
            np.array([not missing[inverse == i].all() for i in range(len(labels))])
            if (missing.any())
            else np.ones(len(labels), bool)
        )
        # Old number of a label to new, -1 where it is dropped.
        place = np.where(keep, np.cumsum(keep) - 1, -1)
        kept = tuple(str(label) for label, k in zip(labels, keep, strict=True) if k)
        dtype = series.dtype
        numeric = not isinstance(dtype, pd.CategoricalDtype) and dtype.kind in "biuf"
        return cls(name, place[inverse], kept, numeric)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many cells have each label."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.labels))

    @property
    def truth(self) -> bool:
        """Whether it says of each cell whether something was done to it."""
        return self.labels == ("False", "True")

    @property
    def named(self) -> int:
        """How far its name is that of what was done to a cell, in points."""
        return max((_PERTURBATION_WORDS.get(word, 0) for word in self.words), default=0)

    @property
    def missing(self) -> int:
        """How many cells have none."""
        return int((self.codes < 0).sum())

    @property
    def words(self) -> list[str]:
        """The words of its name in small letters."""
        return words_of(self.name)

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Labels that say that the label is not known."""
        return tuple(label for label in self.labels if UNKNOWN.fullmatch(label))

    def without(self, labels: Iterable[str]) -> "Column":
        """Return the column with these labels missing."""
        gone = {*labels}
        if not gone:
            return self
        keep = np.array([label not in gone for label in self.labels], bool)
        # Old number of a label to new; -1, missing, reads the last place.
        place = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
        kept = tuple(label for label in self.labels if label not in gone)
        return Column(self.name, place[self.codes], kept, self.numeric)

    def members(self, labels: Iterable[str]) -> NDArray[np.bool_]:
        """Return which cells have one of these labels."""
        wanted = [i for i, label in enumerate(self.labels) if label in {*labels}]
        return np.isin(self.codes, wanted)

    def covered(self, control: NDArray[np.bool_], cells: NDArray[np.bool_]) -> int:
        """Return how many cells have a label under which both arms are large enough."""
        known = (self.codes >= 0) & ~self.members(self.unknown)
        size = len(self.labels)
        arms = [
            np.bincount(self.codes[known & arm], minlength=size)
            for arm in (control, cells & ~control)
        ]
        enough = (arms[0] >= FEWEST_IN_CONTEXT) & (arms[1] >= FEWEST_IN_CONTEXT)
        return int((arms[0] + arms[1])[enough].sum())


def words_of(name: str) -> list[str]:
    """Return the words of a column's name: `targetGene_id` -> target, gene, id."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word.casefold() for word in re.findall(r"[A-Za-z]+", spaced)]


def controls_in(labels: Sequence[str]) -> list[str]:
    """Return the labels that are controls: those that mean nothing else, or else those that may."""
    strong = [label for label in labels if means_control(label)]
    return strong or [label for label in labels if may_mean_control(label)]


def no_perturbations(column: Column, controls: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of a perturbation column that say that a cell's is not known.

    Args:
        column: of perturbations.
        controls: names of control cells, which are known whatever they read like.
    """
    # Hashtags: beside doublets, a negative cell is one without a tag and no control.
    negative = [x for x in column.labels if x.casefold() in ("negative", "negatives")]
    tags = any(re.fullmatch(r"(doublet|multiplet|singlet)s?", x, re.I) for x in column.labels)
    kept = {*controls}
    return tuple(x for x in (*column.unknown, *(negative if tags else ())) if x not in kept)


def perturbation_column(
    columns: Mapping[str, Column], genes: frozenset[str], controls: Sequence[str] = ()
) -> str | None:
    """Return the column that names what was done to a cell, or None where none looks like it.

    Args:
        columns: of the file.
        genes: of the file.
        controls: names of control cells that the user gave, which the column then has.
    """
    if holders := {n: c for n, c in columns.items() if {*controls} <= {*c.labels}}:
        columns = holders
    scores = {name: _score(column, genes, controls) for name, column in columns.items()}
    able = {name: score for name, score in scores.items() if score is not None}
    # Of a column of guides and one of their targets the coarser is meant, of one of drugs and one
    # of their mechanisms the finer; with a point more.
    for name in able:
        for other in able:
            if other != name and _is_coarser(columns[other], columns[name]):
                guides = _are_guides(columns[name], columns[other], genes)
                better, worse = (other, name) if guides else (name, other)
                if guides or columns[name].named >= 3:
                    able[better] = max(able[better], able[worse] + 1)
    if not able:
        return None
    # Of equal scores the shorter labels, then the name: the choice is a function of the file.
    return max(able, key=lambda n: (able[n], -_mean_length(columns[n]), n))


def _score(column: Column, genes: frozenset[str], given: Sequence[str]) -> float | None:
    labels = column.labels
    # A column of truth values needs a telling name: many say something of a cell.
    if (column.numeric and not (column.truth and column.named >= 3)) or not _is_few(column):
        return None
    known = [label for label in given if label in labels]
    controls = known or controls_in(labels)
    if not controls or len(controls) == len(labels):
        return None
    score = column.named + (3.0 if known or means_control(controls[0]) else 1.0)
    score -= 2.0 * sum(word in _OTHER_WORDS for word in column.words)
    # Names such as `leiden_0.5` or `sgRNA2` are of a clustering or a second guide.
    score -= 2.0 * bool(re.search(r"\d", column.name))
    score += 2.0 * (_share(labels, genes) > 0.5)
    # Without a telling name, strong controls have to speak for the column.
    return score if known or score >= 3 or (column.named >= 3 and score > 0) else None


def _is_few(column: Column) -> bool:
    """Return whether labels are few enough to be conditions."""
    # More labels than half the cells are barcodes or ids.
    number = len(column.labels)
    return 2 <= number <= MOST_LABELS and number * 2 <= len(column.codes)


def likely_columns(columns: Mapping[str, Column]) -> list[Column]:
    """Return columns whose names are those of perturbations, the most telling first."""
    able = [c for c in columns.values() if c.named >= 3 and not c.numeric and _is_few(c)]
    return sorted(able, key=lambda c: (-c.named, c.name))


def _share(labels: Sequence[str], genes: frozenset[str]) -> float:
    others = [label for label in labels if not means_control(label)]
    return sum(label in genes for label in others) / max(1, len(others))


def _is_coarser(coarse: Column, fine: Column) -> bool:
    """Return whether each label of `fine` belongs to one label of `coarse`, and controls agree."""
    if not 3 <= len(coarse.labels) < len(fine.labels):
        return False
    both = (coarse.codes >= 0) & (fine.codes >= 0)
    pairs = np.unique(np.stack([fine.codes[both], coarse.codes[both]]), axis=1)
    control = coarse.members(controls_in(coarse.labels))
    # Each label of `fine` occurs with one label of `coarse` alone.
    return pairs.shape[1] == len(np.unique(pairs[0])) and np.array_equal(
        control[both], fine.members(controls_in(fine.labels))[both]
    )


def _are_guides(fine: Column, coarse: Column, genes: frozenset[str]) -> bool:
    """Return whether labels of `fine` are guides of the targets that `coarse` has."""
    if _GUIDE_WORDS & {*fine.words} or _share(coarse.labels, genes) > 0.5:
        return True
    both = (coarse.codes >= 0) & (fine.codes >= 0)
    pairs = np.unique(np.stack([fine.codes[both], coarse.codes[both]]), axis=1).T.tolist()
    names = [(fine.labels[f], coarse.labels[c]) for f, c in pairs]
    perturbed = [(guide, target) for guide, target in names if not means_control(guide)]
    # `STAT1_2` has the name of its target in it; a drug has not that of its mechanism.
    inside = sum(target.casefold() in guide.casefold() for guide, target in perturbed)
    return inside >= 0.5 * len(perturbed)


def _mean_length(column: Column) -> float:
    return float(np.mean([len(label) for label in column.labels]))


def context_columns(
    columns: Mapping[str, Column],
    used: set[str],
    control: NDArray[np.bool_],
    cells: NDArray[np.bool_],
) -> list[str]:
    """Return the columns that say what a cell is: its type and line, and a second perturbation.

    Of several annotations of the same, that under which most cells have both arms.
    """
    able = {n: c for n, c in columns.items() if n not in used and not c.numeric and c.labels}
    ranked: list[tuple[int, int, str]] = []
    for name, column in able.items():
        if is_annotation(column):
            rank = CONTEXT_NAMES.index(_plain(name))
            ranked.append((-column.covered(control, cells), rank, name))
    chosen: list[str] = []
    # An annotation under which no label has both arms says nothing about effects.
    several = [r for r in sorted(ranked) if len(able[r[2]].labels) > 1 and r[0] < 0]
    if several:
        chosen.append(_best_annotation(several)[2])
    # A cell line is a field of the context beside the cell type.
    lines = [r for r in ranked if "line" in r[2].casefold() and r[2] not in chosen]
    if lines:
        chosen.append(lines[0][2])
    if not chosen:
        single = [r for r in sorted(ranked, key=lambda r: r[1]) if len(able[r[2]].labels) == 1]
        chosen += [r[2] for r in single[:1]]
    chosen += [n for n in _second_conditions(able, control, cells) if n not in chosen]
    return chosen


def _plain(name: str) -> str:
    """Return a column's name as `CONTEXT_NAMES` has it: `Cell_Type2` and `cell_type` are one."""
    return re.sub(r"[^a-z_]", "", name.casefold()).strip("_")


def is_annotation(column: Column) -> bool:
    """Return whether a column's name is one of those that say what a cell is."""
    return _plain(column.name) in CONTEXT_NAMES and len(column.labels) <= MOST_CONTEXTS


def _best_annotation(several: Sequence[tuple[int, int, str]]) -> tuple[int, int, str]:
    most = -several[0][0]
    types = [r for r in several if re.sub(r"[^a-z_]", "", r[2].casefold()) not in _PLACE_NAMES]
    # Cell types before places and clusters, unless they cover far fewer cells.
    close = [r for r in types if -r[0] >= 0.5 * most]
    return min(close or several)


def _second_conditions(
    able: Mapping[str, Column], control: NDArray[np.bool_], cells: NDArray[np.bool_]
) -> list[str]:
    """Return columns with controls of their own under whose labels both arms lie: a stimulation."""
    chosen: list[str] = []
    for name, column in able.items():
        if 2 <= len(column.labels) <= 12 and column.named >= 3 and controls_in(column.labels):
            # Both arms under nearly every label: it is crossed with the perturbation, not another
            # name of it.
            crossed = column.covered(control, cells) >= 0.9 * cells.sum()
            if crossed and not _repeats(column, control):
                chosen.append(name)
    # Each further condition multiplies the contexts.
    return chosen[:1]


def _repeats(column: Column, control: NDArray[np.bool_]) -> bool:
    """Return whether a column says of each cell no more than whether it is control."""
    own_controls = column.members(controls_in(column.labels))
    return bool((own_controls == control).mean() > 0.95)


def person_column(columns: Mapping[str, Column], used: set[str]) -> str | None:
    """Return the column of donors, patients or animals."""
    return _first(columns, used, PERSON_WORDS)


def replicate_column(columns: Mapping[str, Column], used: set[str]) -> str | None:
    """Return the column of replicates or batches."""
    return _first(columns, used, REPLICATE_WORDS)


def _first(columns: Mapping[str, Column], used: set[str], words: set[str]) -> str | None:
    able = [
        name
        for name, column in columns.items()
        if name not in used
        and words & {*column.words, "".join(column.words)}
        # With fewer than 20 cells a label, a column is an id and no replicate.
        and 2 <= len(column.labels) - len(column.unknown) <= max(2, len(column.codes) // 20)
        and not {"term", "count", "counts", "umi", "umis"} & {*column.words}
    ]
    # The plainest name: `donor` before `donor_id_original`.
    return min(able, key=len) if able else None


def number_columns(columns: Mapping[str, Column], words: set[str]) -> list[str]:
    """Return columns named by one of these words whose labels are amounts, several of them."""
    return [
        name
        for name, column in columns.items()
        if words & {*column.words} and 2 <= len(column.labels) <= 50 and _are_amounts(column.labels)
    ]


def _are_amounts(labels: Sequence[str]) -> bool:
    """Return whether labels are numbers, with or without a unit: `0.5`, `10 nM`, `D3`, `24h`."""
    number = r"[-+]?\d*\.?\d+(e[-+]?\d+)?"
    form = re.compile(rf"[a-z]{{0,5}}[ _]?{number}[ _]?[a-zµμ/%]{{0,8}}", re.IGNORECASE)
    amounts = sum(bool(form.fullmatch(x)) for x in labels)
    # Control cells may have a word in place of an amount.
    return amounts >= max(2, len(labels) - 1)

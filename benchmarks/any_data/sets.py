"""The data sets: counts, labels, and what is held out of them, as `PROTOCOL.md` lays down."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.combinations import make_k562 as made_k562
from benchmarks.combinations.make_k562 import draw, most_counted, nb_sizes
from benchmarks.combinations.norman import read as read_norman
from benchmarks.combinations.truth import JOIN, label
from lingshu_model.effects import Group, Measured, Moments, measure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CONTROL = "control"
FEWEST = 10
"""Held-out cells of either arm below which a unit does not count."""
FEWEST_CARRIED = 25
"""Cells of either arm from which a context is left out in turn."""
FIFTHS = 5
NORMAN_GENES, NORMAN_CELLS, NORMAN_CONTROLS = 400, 100, 2_000
NORMAN_DEPTH, NORMAN_REAL_DEPTH = 20_000.0, 12_000.0
"""The defaults of `benchmarks.combinations.make_k562`."""


@dataclass(frozen=True)
class Cells:
    """Cells with their labels.

    Attributes:
        counts: [cells, genes] in compressed rows.
        genes: symbols, or what the file has.
        condition: of each cell; `CONTROL` for controls.
        context: of each cell.
        replicate: of each cell; empty where the set names none.
    """

    counts: sparse.csr_matrix
    genes: tuple[str, ...]
    condition: NDArray[np.str_]
    context: NDArray[np.str_]
    replicate: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.condition)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Cells":
        """Return the cells `rows`."""
        return replace(
            self,
            counts=self.counts[rows],
            condition=self.condition[rows],
            context=self.context[rows],
            replicate=self.replicate[rows],
        )

    def where(self, condition: str, context: str) -> Ints:
        """Return the rows of a condition in a context."""
        return np.flatnonzero((self.condition == condition) & (self.context == context))

    @cached_property
    def grouped(self) -> tuple[Moments, list[Group]]:
        """Sums of levels per condition, context and replicate."""
        keys = list(zip(self.condition, self.context, self.replicate, strict=True))
        groups = {key: i for i, key in enumerate(sorted(set(keys)))}
        number = np.array([groups[key] for key in keys])
        moments = Moments.of([self.counts], number, len(groups), len(self.genes))
        return moments, [Group(*map(str, key)) for key in groups]

    @cached_property
    def measured(self) -> Measured:
        """Changes of every condition and context, with their noise."""
        return measure(*self.grouped, CONTROL)


@dataclass(frozen=True)
class Judged:
    """A contrast of which the truth is known.

    Attributes:
        condition: the perturbation.
        context: where.
        unit: what counts once in a comparison.
        truth: change over the held-out cells, [genes].
        noise: its squared standard error, [genes].
        variant: which way of taking the truth this is.
    """

    condition: str
    context: str
    unit: str
    truth: Floats
    noise: Floats
    variant: str = ""


@dataclass(frozen=True)
class Fold:
    """Training cells and what is judged without them."""

    name: str
    train: Cells
    judged: tuple[Judged, ...]


def read(name: str, data: Path) -> Cells:
    """Return a set by name.

    Raises:
        KeyError: there is none of that name.
    """
    return READERS[name](data)


def _thp1(data: Path) -> Cells:
    adata = anndata.read_h5ad(data / "cells" / "papalexi2021_thp1_crisprko.h5ad")
    return _cells(adata, "perturbation", "non-targeting", None, "bio_rep")


def _pbmc(data: Path) -> Cells:
    adata = anndata.read_h5ad(data / "cells" / "kang2018_pbmc_ifnb.h5ad")
    adata = adata[adata.obs["cell_type8"].astype(str) != "unknown"].copy()
    return _cells(adata, "stim", "CTRL", "cell_type8", None)


def _gbm(data: Path) -> Cells:
    adata = anndata.read_h5ad(data / "suite" / "gbm.h5ad")
    return _cells(adata, "condition", "ctrl", "patient_id", None)


def _jurkat(data: Path) -> Cells:
    adata = anndata.read_h5ad(data / "suite" / "jurkat.h5ad")
    return _cells(adata, "target", "control", "perturbation_2", None)


def _pig(data: Path) -> Cells:
    adata = anndata.read_h5ad(data / "suite" / "pig_cftr_ko_airway.h5ad")
    return _cells(adata, "perturbation", "control", "cell_type", "animal")


def _norman(data: Path) -> Cells:
    result = read_norman(data / "effects" / "norman2019_k562_crispra.npz")
    panel = most_counted(result, NORMAN_GENES)
    sizes = nb_sizes(data, [result.genes[i] for i in panel])
    real = made_k562.Measured.of(result, panel, sizes, NORMAN_REAL_DEPTH)
    # As `make_k562` draws them, in its order.
    rng = np.random.default_rng([0, 1])
    sizes_of = [NORMAN_CELLS if row else NORMAN_CONTROLS for row in range(len(real.conditions))]
    counts = [
        draw(rng, cpm, sizes, n, NORMAN_DEPTH) for cpm, n in zip(real.cpm, sizes_of, strict=True)
    ]
    names = [label(c) if c else CONTROL for c in real.conditions]
    condition = np.repeat(names, sizes_of)
    return Cells(
        sparse.csr_matrix(np.concatenate(counts).astype(np.float64)),
        real.genes,
        condition,
        np.full(len(condition), "all"),
        np.full(len(condition), "", dtype=object).astype(str),
    )


READERS: Mapping[str, Callable[[Path], Cells]] = {
    "thp1": _thp1,
    "pbmc": _pbmc,
    "gbm": _gbm,
    "jurkat": _jurkat,
    "pig": _pig,
    "norman": _norman,
}


def _cells(
    adata: anndata.AnnData, condition: str, control: str, context: str | None, replicate: str | None
) -> Cells:
    label = adata.obs[condition].to_numpy(dtype=str)
    blank = np.full(len(label), "", dtype=object).astype(str)
    return Cells(
        sparse.csr_matrix(adata.X, dtype=np.float64),
        tuple(map(str, adata.var_names)),
        np.where(label == control, CONTROL, label),
        np.full(len(label), "all") if context is None else adata.obs[context].to_numpy(dtype=str),
        blank if replicate is None else adata.obs[replicate].to_numpy(dtype=str),
    )


def generator(purpose: int, *more: int) -> np.random.Generator:
    """Return the random numbers of one purpose, seed 0."""
    return np.random.Generator(np.random.Philox(key=[0, purpose + 1000 * sum(more)]))


def truth(perturbed: Cells, control: Cells) -> tuple[Floats, Floats] | None:
    """Return the change between held-out cells and its noise; None with too few of either."""
    if min(len(perturbed), len(control)) < FEWEST:
        return None
    both = sparse.vstack([perturbed.counts, control.counts]).tocsr()
    group = np.repeat([0, 1], [len(perturbed), len(control)])
    moments = Moments.of([both], group, 2, len(perturbed.genes))
    result = measure(moments, [Group("x", ""), Group(CONTROL, "")], CONTROL)
    return result.change[0], result.noise[0]


def fifths(cells: Cells) -> Iterator[Fold]:
    """Hold out a fifth of the cells of every condition and context, five times."""
    part = np.zeros(len(cells), int)
    rng = generator(1)
    keys = sorted(set(zip(cells.condition, cells.context, strict=True)))
    for condition, context in keys:
        rows = rng.permutation(cells.where(condition, context))
        part[rows] = np.arange(len(rows)) % FIFTHS
    for fold in range(FIFTHS):
        yield _seen(f"fifth-{fold}", cells.take(part != fold), cells.take(part == fold))


def replicates(cells: Cells) -> Iterator[Fold]:
    """Hold out each replicate in turn."""
    for name in sorted(set(cells.replicate)):
        held = cells.replicate == name
        yield _seen(name, cells.take(~held), cells.take(held))


def animals(cells: Cells) -> Iterator[Fold]:
    """Hold out one knock-out animal and one control animal, every pair in turn."""
    control = cells.condition == CONTROL
    for knockout in sorted(set(cells.replicate[~control])):
        for other in sorted(set(cells.replicate[control])):
            held = np.isin(cells.replicate, [knockout, other])
            fold = _seen(f"{knockout}+{other}", cells.take(~held), cells.take(held))
            judged = tuple(replace(j, unit=f"{knockout} {j.context}") for j in fold.judged)
            yield replace(fold, judged=judged)


def _seen(name: str, train: Cells, held: Cells) -> Fold:
    return Fold(name, train, tuple(_judged(held)))


def _judged(held: Cells) -> Iterator[Judged]:
    for condition, context in sorted(set(zip(held.condition, held.context, strict=True))):
        if condition != CONTROL:
            arms = [held.take(held.where(c, context)) for c in (condition, CONTROL)]
            if known := truth(*arms):
                yield Judged(condition, context, _unit(condition, context), *known)


def _unit(condition: str, context: str) -> str:
    return condition if context == "all" else f"{condition} {context}"


def contexts(cells: Cells) -> Iterator[Fold]:
    """Leave each context's perturbed cells out, its control cells shared or in halves."""
    for context in sorted(set(cells.context)):
        here = cells.context == context
        perturbed = np.flatnonzero(here & (cells.condition != CONTROL))
        control = np.flatnonzero(here & (cells.condition == CONTROL))
        if min(len(perturbed), len(control)) < FEWEST_CARRIED:
            continue
        others = np.flatnonzero(~here)
        shuffled = generator(2).permutation(control)
        half = len(control) // 2
        sides = [("disjoint", shuffled[:half], shuffled[half:]),
                 ("disjoint", shuffled[half:], shuffled[:half]),
                 ("shared control", control, control)]  # fmt: skip
        for i, (variant, given, judging) in enumerate(sides):
            judged = [
                Judged(str(c), str(context), str(context), *known, variant)
                for c in sorted(set(cells.condition[perturbed]))
                if (known := truth(
                    cells.take(perturbed[cells.condition[perturbed] == c]), cells.take(judging)
                ))
            ]  # fmt: skip
            rows = np.sort(np.concatenate([others, given]))
            yield Fold(f"{context}-{i}", cells.take(rows), tuple(judged))


def targets(folds: Iterator[Fold]) -> Iterator[Fold]:
    """Leave each target's cells out of the training cells of every fold."""
    for fold in folds:
        for target in sorted({j.condition for j in fold.judged}):
            yield Fold(
                f"{fold.name}-{target}",
                fold.train.take(fold.train.condition != target),
                tuple(j for j in fold.judged if j.condition == target),
            )


def development(name: str, cells: Cells) -> Cells:
    """Return the cells of a set on which recipe choices may be made."""
    keep = np.ones(len(cells), bool)
    if name == "thp1":
        keep = np.isin(cells.replicate, ["rep_1", "rep_2"])
    elif name == "pbmc":
        keep = cells.context != "CD4 T cells"
    elif name == "gbm":
        keep = cells.context != "PW040"
    elif name == "jurkat":
        return next(fifths(cells)).train
    elif name == "norman":
        return next(doubles(cells)).train
    elif name == "pig":
        keep = np.isin(cells.replicate, ["SCF1", "SCF2", "SWT1", "SWT2", "SWT3"])
    return cells.take(keep)


def doubles(cells: Cells) -> Iterator[Fold]:
    """Hold out a fifth of the doubles, five times; half of the control cells is the truth's."""
    control = generator(3).permutation(np.flatnonzero(cells.condition == CONTROL))
    judging = control[: len(control) // 2]
    names = np.array(sorted({c for c in cells.condition if JOIN in c}))
    part = np.zeros(len(names), int)
    part[generator(4).permutation(len(names))] = np.arange(len(names)) % FIFTHS
    for fold in range(FIFTHS):
        held = np.isin(cells.condition, names[part == fold])
        rest = ~held
        rest[judging] = False
        judged = cells.take(np.concatenate([np.flatnonzero(held), judging]))
        yield _seen(f"fifth-{fold}", cells.take(rest), judged)

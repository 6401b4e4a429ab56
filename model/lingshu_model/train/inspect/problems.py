"""What a person should know of a file before it is trained on, with what to do about it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lingshu_model.train.inspect.columns import FEWEST_IN_CONTEXT, Column, is_annotation
from lingshu_model.train.inspect.counts import Values, other_counts, remark
from lingshu_model.train.inspect.genes import GeneNames
from lingshu_model.train.inspect.targets import Kind
from lingshu_model.train.inspect.understanding import Problem

FEW_CELLS = 30
"""Cells of a condition below which its effect is hardly told from nothing."""
GENETIC = ("knockout", "crispri", "crispra")
_SHOWN = 4


def problems_of_counts(counts: Values | None, matrices: Sequence[Values]) -> list[Problem]:
    """Return what is wrong with the matrix that is used, `counts`, and with the others."""
    if counts is None or not counts.raw:
        shown = "; ".join(f"{m.name}: {m.words}" for m in matrices) or "there is no matrix"
        return [
            Problem(
                f"no matrix holds raw counts ({shown})",
                "Put the counts as they came from the aligner into X or layers['counts']; what was "
                "normalised or logged cannot be undone. Corrected counts may be rounded "
                "(adata.X = adata.X.round())",
                fatal=True,
            )
        ]
    problems: list[Problem] = []
    if said := remark(counts):
        remedy = (
            "Give the counts themselves with --counts if the file has them"
            if counts.largest == 1
            else "For deep reads, sample counts down first (scanpy.pp.downsample_counts)"
        )
        problems.append(Problem(said, remedy))
    others = other_counts(counts, matrices)
    # A part of the counts beside the whole of them is usual; the whole beside a part is not.
    if others and (counts.name != "X" or max(m.depth for m in others) > counts.depth):
        shown = ", ".join(f"{m.name} (median {m.depth:,.0f} a cell)" for m in others[:_SHOWN])
        what = f"{counts.name} is used, and {shown} would do too"
        problems.append(Problem(what, "Say --counts if another matrix has the counts of a cell"))
    return problems


def problems_of_genes(genes: int, names: GeneNames) -> list[Problem]:
    """Return what is wrong with the genes of a file, and what is left out that is no gene."""
    problems = [Problem(note, remedy) for note, remedy in names.notes]
    if genes < 2:
        problems.append(Problem(f"{genes} gene is too few", "Bring at least 2", fatal=True))
    if names.repeated is not None:
        remedy = (
            "Make names unique (adata.var_names_make_unique()), or name a column of var with "
            "--gene-names"
        )
        problems.append(Problem(f"two genes are called {names.repeated!r}", remedy, fatal=True))
    return problems


def problems_of_arms(
    conditions: Mapping[str, int], contexts: Mapping[str, tuple[int, int]], time: str | None = None
) -> list[Problem]:
    """Return conditions with few cells and contexts without control cells.

    Args:
        conditions: condition to its number of cells; "" is control.
        contexts: context to its numbers of control and of perturbed cells.
        time: the obs column of times, which is a field of every context.
    """
    problems: list[Problem] = []
    if (number := conditions.get("", 0)) < FEW_CELLS:
        what = f"there are {number:,} control cells, and every effect is a change from their mean"
        problems.append(Problem(what, "Their noise is in all effects; add control cells"))
    few = [f"{n} ({k})" for n, k in conditions.items() if n and k < FEW_CELLS]
    if few:
        what = (
            f"{len(few):,} of {sum(map(bool, conditions)):,} conditions have fewer than "
            f"{FEW_CELLS} cells ({some(few)})"
        )
        problems.append(Problem(what, "Their effects are hardly told from nothing"))
    bare = [name for name, (control, n) in contexts.items() if n and not control]
    # All contexts with perturbed cells: no effect could be estimated at all.
    if bare and len(bare) == sum(bool(n) for _, n in contexts.values()):
        what = "no context has both control and perturbed cells"
        remedy = "Name another --context: one that does not go with the perturbation"
        if time:
            remedy = (
                f"With --time every label of obs[{time!r}] needs control cells: leave it out, or, "
                "to hold every time against the same controls, name the condition by perturbation "
                "and time in one column (such as 'IFNG 6 h') and give it as --perturbation"
            )
        problems.append(Problem(what, remedy, fatal=True))
    elif bare:
        what = (
            f"{len(bare):,} of {len(contexts):,} contexts have no control cells ({some(bare)}) "
            "and are left out: nothing could be asked about them"
        )
        problems.append(Problem(what, "Add control cells, or name fewer context columns"))
    return problems


def problems_of_targets(
    conditions: Mapping[str, int], kind: Kind | None, column: str, genes: GeneNames
) -> list[Problem]:
    """Return whether the targets of a genetic perturbation are genes of the file."""
    targets = {t for name in conditions if name for t in name.split("+")}
    if kind is None or kind.name not in GENETIC or not targets or targets & genes.names:
        return []
    what = (
        f"none of the {len(targets):,} targets in obs[{column!r}] is a gene of the file, so that "
        "what a perturbation does to its own target cannot be checked"
    )
    remedy = "If a column of var has the names of the targets, say --gene-names COLUMN"
    return [Problem(what, remedy)]


def problems_of_replicates(
    replicates: Column,
    conditions: NDArray[np.int64],
    control: NDArray[np.bool_],
    keep: NDArray[np.bool_],
) -> list[Problem]:
    """Return whether replicates go with the perturbation, so that neither is told from the other.

    Args:
        replicates: the column.
        conditions: the number of each cell's condition, -1 = none.
        control: control cells.
        keep: cells that are used.
    """
    cells = keep & (replicates.codes >= 0) & (conditions >= 0)
    arms = [np.unique(replicates.codes[cells & arm]) for arm in (control, ~control)]
    # A replicate with both arms lets differences between replicates cancel.
    if len(np.intersect1d(arms[0], arms[1])) or not len(arms[1]):
        return []
    perturbed = cells & ~control
    pairs = np.unique(np.stack([conditions[perturbed], replicates.codes[perturbed]]), axis=1)
    single = int((np.unique(pairs[0], return_counts=True)[1] == 1).sum())
    # Several replicates in each arm: their spread can be estimated.
    if len(arms[0]) > 1 and not single:
        return []
    what = (
        f"no label of obs[{replicates.name!r}] has both control and perturbed cells, and "
        f"{single:,} condition{'s have' if single > 1 else ' has'} one alone"
        if single
        else f"obs[{replicates.name!r}] has one label for all control cells and others for the rest"
    )
    remedy = (
        "What differs between replicates cannot be told from the effect; name a column with both "
        "arms under a label as --replicate if there is one"
    )
    return [Problem(what, remedy)]


def problems_of_pooling(columns: Mapping[str, Column], context: Mapping[str, str]) -> list[Problem]:
    """Return annotations of cells that are not used as a context, where nothing else is one.

    Args:
        columns: of the file.
        context: context field to a constant, or to `obs:COLUMN`.
    """
    if any(value.startswith("obs:") for value in context.values()):
        return []
    names = [n for n, c in columns.items() if is_annotation(c) and len(c.labels) > 1]
    if not names:
        return []
    what = (
        f"obs[{names[0]!r}] has {len(columns[names[0]].labels):,} labels, of which none has "
        f"{FEWEST_IN_CONTEXT} control and {FEWEST_IN_CONTEXT} perturbed cells: all cells are one "
        "context, and shares of labels that differ between the arms enter the effects"
    )
    return [Problem(what, f"Say --context {names[0]} to keep them apart all the same")]


def some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    shown = ", ".join(repr(n) if "(" not in n else n for n in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")

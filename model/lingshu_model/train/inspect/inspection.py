"""A file looked at: where its counts are, what its columns mean, and what is wrong with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lingshu_model.contracts.h5ad import UnsafeFileError, audit_h5ad
from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.data.controls import may_mean_control, means_control
from lingshu_model.train.data.features import features_of
from lingshu_model.train.data.h5ad import existing, table
from lingshu_model.train.data.labelled import number_of
from lingshu_model.train.data.labels import nearest
from lingshu_model.train.inspect.arms import Arms
from lingshu_model.train.inspect.columns import (
    Column,
    context_columns,
    controls_in,
    likely_columns,
    no_perturbations,
    number_columns,
    person_column,
    perturbation_column,
    replicate_column,
)
from lingshu_model.train.inspect.counts import Values, matrix_values
from lingshu_model.train.inspect.genes import GeneNames, gene_names
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.problems import (
    problems_of_arms,
    problems_of_counts,
    problems_of_genes,
    problems_of_pooling,
    problems_of_replicates,
    problems_of_targets,
    some,
)
from lingshu_model.train.inspect.targets import (
    Kind,
    kind_of,
)
from lingshu_model.train.inspect.understanding import Problem, Understanding

_OBS = "obs:"
NONE = "none"
"""The `--perturbation` of a file whose cells are all taken as unperturbed."""


def inspect(path: Path, options: Options | None = None, *, name: str = "") -> Understanding:
    """Return what an h5ad file holds and how it would be trained on.

    Args:
        path: of the file, or a link to it.
        options: what its user says of it.
        name: what the cells are called where no column says what they are; the file's by default.

    Raises:
        DataError: the file cannot be read, or what the user says does not fit it.
    """
    options = options or Options()
    try:
        real = audit_h5ad(existing(path))
    except UnsafeFileError as error:
        raise DataError(str(error)) from error
    with h5py.File(real, "r") as file:
        matrices = matrix_values(file, path)
        chosen = _chosen(matrices, options.counts, path)
        # `raw` has genes of its own, often more than `var`.
        place = "raw/var" if chosen and chosen.name == "raw/X" else "var"
        var = table(file, place, path)
        obs = table(file, "obs", path).reset_index(drop=True)
    genes = gene_names(var, _known(options.gene_names, var, "var", path))
    number = int(features_of(var).genes.sum())
    return _Inspection(path, obs, genes, options, name or path.stem).of(chosen, matrices, number)


def _chosen(matrices: Sequence[Values], wanted: str | None, path: Path) -> Values | None:
    if wanted is None:
        return next((m for m in matrices if m.raw), None)
    for each in matrices:
        if each.name == wanted or each.name == f"layers/{wanted}":
            return each
    message = f"{path} has no matrix {wanted!r}; it has {', '.join(m.name for m in matrices)}"
    raise DataError(message)


def _known(name: str | None, frame: pd.DataFrame, which: str, path: Path) -> str | None:
    if name is None or name in frame:
        return name
    columns = [str(c) for c in frame.columns]
    message = (
        f"{path} has no {which} column {name!r}{nearest(name, columns)}; it has "
        f"{', '.join(columns) or 'none'}"
    )
    raise DataError(message)


class _Inspection:
    """One file being looked at; what is odd about it gathers in `problems`."""

    def __init__(
        self, path: Path, obs: pd.DataFrame, genes: GeneNames, options: Options, name: str
    ) -> None:
        self.path, self.obs, self.genes, self.options, self.name = path, obs, genes, options, name
        self.columns = {str(c): Column.of(obs, str(c)) for c in obs.columns}
        self.problems: list[Problem] = []

    def of(self, counts: Values | None, matrices: Sequence[Values], genes: int) -> Understanding:
        self.problems += problems_of_counts(counts, matrices)
        self.problems += problems_of_genes(genes, self.genes)
        understanding = Understanding(
            file=str(self.path),
            cells=len(self.obs),
            genes=genes,
            counts=counts.name if counts and counts.raw else None,
            counts_words=_counts_words(counts, matrices),
            depth=counts.depth if counts else float("nan"),
            gene_column=self.genes.column,
            gene_words=self.genes.words,
            human=self.genes.human,
        )
        # A column of this name is a column.
        said_none = self.options.perturbation == NONE and NONE not in self.columns
        column = None if said_none else self._perturbation_column()
        if column is not None:
            return self._with_problems(self._perturbed(understanding, column))
        said = self.options
        of_perturbed = said.control or said.kind or said.dose or said.separator
        if said.context and not of_perturbed:
            return self._with_problems(self._unperturbed(understanding))
        what = "no column of obs names a perturbation and control cells"
        remedy = (
            "Say which with --perturbation and --control, or, if nothing was done to the cells, "
            "what they are with --context alone"
        )
        if likely := likely_columns(self.columns):
            # A name that tells, and no control among its labels that is known.
            first = likely[0]
            what += f"; obs[{first.name!r}] may be meant, with {some(first.labels)}"
            if first.missing:
                what += f", and {first.missing:,} cells without a label"
            remedy = (
                f"Say --perturbation {first.name} --control NAME with its control, which needs a "
                "label; or, if nothing was done to the cells, what they are with --context alone"
            )
        if said_none:
            what = "nothing was done to the cells, and no column says what they are"
            remedy = "Say --context COLUMN, and neither --control, --kind, --dose nor --separator"
        self._problem(what, f"{remedy}; obs has {self._listed()}", fatal=True)
        return self._with_problems(understanding)

    def _perturbation_column(self) -> str | None:
        given = self._column(self.options.perturbation, "obs")
        controls = [name.strip() for name in self.options.control]
        return given or perturbation_column(self.columns, self.genes.names, controls)

    def _unperturbed(self, understanding: Understanding) -> Understanding:
        """Return what a file of cells is to which nothing was done: all are control cells."""
        context = self._given_context()
        left, keep, without = self._left_out(None, context)
        cells = np.ones(len(self.obs), bool)
        return replace(
            understanding,
            conditions={"": int(keep.sum())},
            context=context,
            contexts=self._contexts(context, cells, keep),
            replicate=self._column(self.options.replicate, "obs"),
            replicates=self._labels(self.options.replicate),
            time=self._column(self.options.time, "obs"),
            without=without,
            left_out=left,
        )

    def _labels(self, column: str | None) -> int:
        return len(self._known(column).labels) if column else 0

    def _known(self, column: str) -> Column:
        """Return a column of replicates without labels that say that it is not known."""
        return self.columns[column].without(self.columns[column].unknown)

    def _with_problems(self, understanding: Understanding) -> Understanding:
        return replace(understanding, problems=tuple(self.problems))

    def _problem(self, what: str, remedy: str, *, fatal: bool = False) -> None:
        self.problems.append(Problem(what, remedy, fatal))

    def _listed(self) -> str:
        return (
            ", ".join(f"{n} ({len(c.labels):,} labels)" for n, c in [*self.columns.items()][:30])
            or "no columns"
        )

    def _column(self, name: str | None, which: str) -> str | None:
        return _known(name, self.obs, which, self.path)

    def _perturbed(self, understanding: Understanding, column: str) -> Understanding:
        # Doublets and cells without a call are neither perturbed nor control.
        unknown = no_perturbations(self.columns[column], map(str.strip, self.options.control))
        known = self.columns[column].without(unknown)
        controls = self._controls(column, known.labels)
        if not controls:
            return replace(understanding, perturbation=column)
        arms = Arms.of(known, controls, self.genes, self.options)
        self.problems += arms.problems
        if not arms.names:
            return replace(understanding, perturbation=column, controls=tuple(controls))
        # After the arms: columns are chosen by the cells of both arms under their labels.
        replicate, context = self._design(column, arms)
        left, keep, without = self._left_out(column, context, unknown)
        kind = self._kind(arms, controls)
        contexts = self._contexts(context, arms.control, keep)
        # Training leaves them out: no effect is estimated without control cells.
        if alone := sum(n for control, n in contexts.values() if not control):
            left["in contexts without control cells"] = alone
        conditions = arms.counted(keep)
        self.problems += problems_of_arms(conditions, contexts, self.options.time)
        if not self.options.context:
            unused = {n: c for n, c in self.columns.items() if n not in (column, replicate)}
            self.problems += problems_of_pooling(unused, context)
        self.problems += problems_of_targets(conditions, kind, column, self.genes)
        if replicate:
            labels_of = self._known(replicate)
            self.problems += problems_of_replicates(labels_of, arms.codes, arms.control, keep)
        return replace(
            understanding,
            perturbation=column,
            controls=tuple(controls),
            targets=arms.rule.targets,
            guides=arms.guides,
            separator=arms.rule.separator,
            kind=kind,
            conditions=conditions,
            context=context,
            contexts=contexts,
            replicate=replicate,
            replicates=self._labels(replicate),
            unnamed=int((self._known(replicate).codes[keep] < 0).sum()) if replicate else 0,
            dose=self._dose(arms, keep),
            time=self._column(self.options.time, "obs"),
            without=without,
            left_out=left,
        )

    def _controls(self, column: str, labels: Sequence[str]) -> list[str]:
        given = [name.strip() for name in self.options.control]
        for name in given:
            if name not in labels:
                message = (
                    f"{self.path}: obs[{column!r}] has no cells called {name!r}"
                    f"{nearest(name, labels)}; it has {some(labels)}"
                )
                raise DataError(message)
        if given:
            others = [x for x in controls_in(labels) if x not in given and means_control(x)]
            if others:
                self._problem(
                    f"{some(others)} in obs[{column!r}] reads like a control too, and is trained "
                    "as a perturbation",
                    "Name it with --control as well if it is one",
                )
            return given
        proposed = controls_in(labels)
        if not proposed:
            # Fatal: nothing is guessed about which cells are control.
            self._problem(
                f"no label of obs[{column!r}] reads like control cells: {some(labels)}",
                "Name them with --control",
                fatal=True,
            )
        weak = [x for x in labels if x not in proposed and may_mean_control(x)]
        if proposed and weak:
            self._problem(
                f"{some(weak)} may be a control too, and is trained as a perturbation",
                "Name every control with --control if it is one",
            )
        return proposed

    def _design(self, column: str, arms: Arms) -> tuple[str | None, dict[str, str]]:
        """Return the replicate column and the context fields."""
        named = {self.options.replicate, self.options.dose, self.options.time} - {None}
        # A column that has a meaning already is not proposed for another.
        used = {column, *map(str, named)}
        cells = arms.codes >= 0
        if self.options.context:
            context = self._given_context()
        else:
            chosen = context_columns(self.columns, used, arms.control, cells)
            person = person_column(self.columns, used)
            # Donors differ as cell types do; where nothing else is a context, each is one.
            if person and not any(len(self.columns[c].labels) > 1 for c in chosen):
                covered = self.columns[person].covered(arms.control, cells)
                chosen += [person] if covered >= 0.9 * cells.sum() else []
            context = {name: _value(self.columns[name]) for name in chosen}
            context = context or {"sample": self.name}
        used |= {value.removeprefix(_OBS) for value in context.values()} | {*context}
        replicate = self._column(self.options.replicate, "obs")
        if replicate is None:
            # Donors before batches: cells of one donor are not independent either.
            replicate = person_column(self.columns, used) or replicate_column(self.columns, used)
        return replicate, context

    def _given_context(self) -> dict[str, str]:
        context: dict[str, str] = {}
        for text in self.options.context:
            name, mark, value = text.partition("=")
            name, value = name.strip(), value.strip()
            if not mark:
                context[name] = f"{_OBS}{self._column(name, 'obs')}"
            elif value.startswith(_OBS):
                context[name] = f"{_OBS}{self._column(value.removeprefix(_OBS), 'obs')}"
            elif name and value:
                context[name] = value
            else:
                message = f"the context {text!r} is neither a column of obs nor FIELD=VALUE"
                raise DataError(message)
        return context

    def _left_out(
        self, column: str | None, context: Mapping[str, str], unknown: tuple[str, ...] = ()
    ) -> tuple[dict[str, int], NDArray[np.bool_], dict[str, tuple[str, ...]]]:
        """Return why cells are left out, which are kept, and labels that say nothing.

        Args:
            column: that of perturbations; None = there is none.
            context: field to a constant, or to `obs:COLUMN`.
            unknown: its labels that say that the perturbation is not known.
        """
        keep = np.ones(len(self.obs), bool)
        left: dict[str, int] = {}
        without: dict[str, tuple[str, ...]] = {}

        def drop(cells: NDArray[np.bool_], why: str) -> None:
            # Cells left out before for another reason are counted once.
            if number := int((cells & keep).sum()):
                left[why] = number
                keep[cells] = False

        fields = [v.removeprefix(_OBS) for v in context.values() if v.startswith(_OBS)]
        for name in (*([column] if column else []), *fields):
            labels = self.columns[name]
            drop(labels.codes < 0, f"without a label in obs[{name!r}]")
            # Where every label is unknown, the column says nothing and no cell is dropped for it.
            nothing = unknown if name == column else labels.unknown
            if 0 < len(nothing) < len(labels.labels):
                drop(labels.members(nothing), f"{some(nothing)} in obs[{name!r}]")
                without[name] = nothing
        if time := self._column(self.options.time, "obs"):
            # The time becomes a context field: training leaves cells without one out too.
            drop(self.columns[time].codes < 0, f"without a label in obs[{time!r}]")
        return left, keep, without

    def _contexts(
        self, context: Mapping[str, str], is_control: NDArray[np.bool_], keep: NDArray[np.bool_]
    ) -> dict[str, tuple[int, int]]:
        fields = [self.columns[v.removeprefix(_OBS)] for v in context.values() if _OBS in v]
        if self.options.time:
            fields.append(self.columns[str(self._column(self.options.time, "obs"))])
        codes = np.stack([f.codes for f in fields], 1) if fields else np.zeros((len(keep), 0), int)
        # [contexts, fields]: the combinations of labels that occur.
        rows, inverse = np.unique(codes[keep], axis=0, return_inverse=True)
        inverse = inverse.ravel()
        control = np.bincount(inverse[is_control[keep]], minlength=len(rows))
        whole = np.bincount(inverse, minlength=len(rows))
        labels = [[f.labels[i] for f, i in zip(fields, row, strict=True)] for row in rows.tolist()]
        # Labels with commas in them: the names of two contexts may be the same text.
        times = Counter(", ".join(each) for each in labels)
        names = [
            ", ".join(each if times[", ".join(each)] == 1 else map(repr, each)) for each in labels
        ]
        return {
            n or "all cells": (int(c), int(w - c))
            for n, c, w in zip(names, control, whole, strict=True)
        }

    def _kind(self, arms: Arms, controls: Sequence[str]) -> Kind | None:
        if self.options.kind:
            return Kind(self.options.kind, "as you say", assumed=False)
        targets = sorted({t for name in arms.names if name for t in name.split("+")})
        # Columns that name a technology for all cells, such as `perturbation_type`.
        hints = {
            name: c.labels
            for name, c in self.columns.items()
            if len(c.labels) <= 3 and {"type", "modality", "technology", "library"} & {*c.words}
        }
        return kind_of(targets, controls, self.genes.names, hints)

    def _dose(self, arms: Arms, keep: NDArray[np.bool_]) -> str | None:
        perturbed = keep & ~arms.control
        if (dose := self._column(self.options.dose, "obs")) is not None:
            column = self.columns[dose]
            bad = [
                label
                for i, label in enumerate(column.labels)
                # Also refuses NaN, which is not above 0.
                if (perturbed & (column.codes == i)).any() and not (number_of(label) or 0) > 0
            ]
            if bad or (perturbed & (column.codes < 0)).any():
                shown = repr(bad[0]) if bad else "missing"
                self._problem(
                    f"obs[{dose!r}] is {shown} for a perturbed cell; a dose is a number above 0",
                    "Write it as a number in one unit, or train without --dose",
                    fatal=True,
                )
            return dose
        words = {
            "--dose": {"dose", "dosage", "dosages", "doses", "concentration", "conc"},
            "--time": {"time", "timepoint", "hours", "hrs", "hpi", "dpi", "days", "day"},
        }
        for option, named in words.items():
            for name in number_columns(self.columns, named):
                if len(np.unique(self.columns[name].codes[perturbed])) > 1 and not (
                    option == "--time" and self.options.time
                ):
                    self._problem(
                        f"obs[{name!r}] has several values among perturbed cells, which are pooled",
                        f"Say {option} {name} to train them apart",
                    )
        return None


def _counts_words(counts: Values | None, matrices: Sequence[Values]) -> str:
    if counts is None:
        return "no matrix of raw counts"
    others = [f"{m.name}: {m.words}" for m in matrices if m is not counts]
    rest = f" (beside {'; '.join(others[:3])})" if others else ""
    return f"{counts.name}: {counts.words}{rest}"


def _value(column: Column) -> str:
    single = column.labels[0] if len(column.labels) == 1 and not column.missing else None
    return f"{_OBS}{column.name}" if single is None else single

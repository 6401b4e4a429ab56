"""Which cells of a file a training run uses, and the condition and replicate of each.

Nothing is left out or taken as control without a note. A label that cannot be what the
specification says is refused; file, column and label are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lingshu_model.contracts import Intervention
from lingshu_model.train.data.cells import Condition
from lingshu_model.train.data.controls import means_control
from lingshu_model.train.data.h5ad import DataError, H5ad
from lingshu_model.train.data.labels import UNKNOWN, counted, nearest
from lingshu_model.train.spec import Perturbations, Source, TrainingSpec

SEPARATORS = ("+", "|", ";", ",", "&")
"""What stands between targets and never within the name of one."""
_OBS = "obs:"
_SHOWN = 3


@dataclass(frozen=True)
class Labelled:
    """The cells used of one file.

    Attributes:
        rows: their row numbers, ascending.
        conditions: of each.
        replicate: of each; "" where none is named.
        notes: what was left out, and what looks odd.
    """

    rows: NDArray[np.int64]
    conditions: list[Condition]
    replicate: NDArray[np.str_]
    notes: list[str] = field(default_factory=list[str])


def label_cells(file: H5ad, source: Source, spec: TrainingSpec) -> Labelled:
    """Return the cells of `file` that `source` wants, with their conditions.

    Raises:
        DataError: a column or label is missing, or a label is not what the specification says.
    """
    notes: list[str] = []
    keep = _wanted(file, source)
    if not keep.any():
        message = f"{file.path}: no cell has {source.where} and a name for {[*source.rename]}"
        raise DataError(message)
    context = dict(source.context) | ({"time": f"{_OBS}{spec.time}"} if spec.time else {})
    fields = {f: _field(file, source, f, v, keep, notes) for f, v in sorted(context.items())}
    labels = _perturbation_labels(file, source.perturbation, keep, notes)
    rows = np.flatnonzero(keep)
    interventions = _interventions(file, source.perturbation, labels, rows, notes)
    if spec.dose:
        interventions = _dosed(interventions, file, spec.dose, rows)

    @cache  # Cells are many and conditions few.
    def condition(interventions: tuple[Intervention, ...], *values: str) -> Condition:
        return Condition(tuple(zip(fields, map(str, values), strict=True)), interventions)

    values = [field_values[rows].tolist() for field_values in fields.values()]
    chosen = [*map(condition, interventions, *values)]
    return Labelled(rows, chosen, _replicates(file, spec, rows, notes), notes)


def parts_of(label: str, rule: Perturbations) -> list[str]:
    """Return the targets that a label names, sorted, each once; control is none.

    Raises:
        ValueError: a part is empty, or the label holds the control's name with a separator that
            `rule` does not name.
    """
    controls = {name.strip() for name in rule.controls}
    names = {label.strip(): target.strip() for label, target in rule.targets.items()}
    # A label that is renamed as a whole is not split before: its separator may be part of it.
    whole = names.get(label)
    if label in controls or whole in controls:
        return []
    text = label if whole is None else whole
    parts = [part.strip() for part in text.split(rule.separator)] if rule.separator else [text]
    if not all(parts):
        message = f"the label {label!r} has an empty part beside {rule.separator!r}"
        raise ValueError(message)
    if whole is None:
        parts = [names.get(part, part) for part in parts]
        _check_separator(parts, controls)
    # Any order of the parts is the same combination; a control part adds nothing.
    return sorted({part for part in parts if part not in controls})


def _check_separator(parts: Sequence[str], controls: set[str]) -> None:
    for part in parts:
        for separator in SEPARATORS:
            inner = {each.strip() for each in part.split(separator)}
            if len(inner) > 1 and inner & controls:
                message = (
                    f"the label {part!r} holds the control's name and {separator!r}: say "
                    f'"separator": "{separator}" if such labels are combinations, or say in '
                    '"targets" what each is called'
                )
                raise ValueError(message)


def _wanted(file: H5ad, source: Source) -> NDArray[np.bool_]:
    keep = np.ones(len(file.obs), bool)
    for column, values in source.where.items():
        keep &= np.isin(file.column(column), [v.strip() for v in values])
    for name, renamed in source.rename.items():
        value = source.context.get(name, "")
        if not value.startswith(_OBS):
            message = f"`rename` is about the context field {name!r}, which no obs column gives"
            raise DataError(message)
        keep &= np.isin(file.column(value.removeprefix(_OBS)), [v.strip() for v in renamed])
    for combination in source.without:
        matches = [file.column(c) == v.strip() for c, v in combination.items()]
        # Cells with all of these labels together are left out.
        keep &= ~np.logical_and.reduce(matches)
    return keep


def _field(
    file: H5ad,
    source: Source,
    name: str,
    value: str,
    keep: NDArray[np.bool_],
    notes: list[str],
) -> NDArray[np.str_]:
    """Return the context field `name` of every cell; cells without one are not kept."""
    if not value.startswith(_OBS):
        return np.full(len(file.obs), value)
    column = value.removeprefix(_OBS)
    renamed = {k.strip(): v for k, v in source.rename.get(name, {}).items()}
    labels = file.texts(column)
    _leave_out(file, column, labels.missing(but=renamed), keep, notes)
    if not renamed:
        return labels.values
    # Renamed once for each label, not once for each cell.
    names, inverse = np.unique(labels.values, return_inverse=True)
    return np.array([renamed.get(v, v) for v in names.tolist()], dtype=str)[inverse]


def _perturbation_labels(
    file: H5ad, rule: Perturbations | None, keep: NDArray[np.bool_], notes: list[str]
) -> NDArray[np.str_]:
    if rule is None:
        return np.full(len(file.obs), "")
    labels = file.texts(rule.column)
    _check_controls(file, rule, labels.values, keep)
    _leave_out(file, rule.column, labels.missing(but=[*rule.controls, *rule.targets]), keep, notes)
    return labels.values


def _leave_out(
    file: H5ad,
    column: str,
    missing: NDArray[np.bool_],
    keep: NDArray[np.bool_],
    notes: list[str],
) -> None:
    gone = missing & keep
    if not gone.any():
        return
    if gone.sum() == keep.sum():
        message = f"{file.path}: no cell that is left has a label in obs[{column!r}]"
        raise DataError(message)
    notes.append(
        f"{file.path}: {int(gone.sum()):,} of {int(keep.sum()):,} cells have no label in "
        f"obs[{column!r}] and are left out"
    )
    # In place: the caller's mask, which later columns narrow further.
    keep &= ~missing


def _check_controls(
    file: H5ad, rule: Perturbations, labels: NDArray[np.str_], keep: NDArray[np.bool_]
) -> None:
    """Refuse a control label that no cell has: a spelling, or cells that were filtered out."""
    mapped = {target.strip() for target in rule.targets.values()}
    for control in (name.strip() for name in rule.controls):
        # A control that only appears after renaming has no label of its own in the column.
        if control in labels[keep] or (control in mapped and len(rule.controls) == 1):
            continue
        if control in labels:
            message = (
                f"{file.path}: no control cells are left: the {int((labels == control).sum()):,} "
                f"cells with obs[{rule.column!r}] = {control!r} are not among those that `where`, "
                f"`without` and `rename` keep, which have {counted(labels[keep].tolist())}"
            )
            raise DataError(message)
        near = nearest(control, np.unique(labels).tolist())
        message = (
            f"{file.path}: obs[{rule.column!r}] has no control cells called {control!r}{near}; it "
            f"has {counted(labels.tolist())}"
        )
        raise DataError(message)


def _interventions(
    file: H5ad,
    rule: Perturbations | None,
    labels: NDArray[np.str_],
    rows: NDArray[np.int64],
    notes: list[str],
) -> list[tuple[Intervention, ...]]:
    if rule is None:
        return [()] * len(rows)
    # Conditions are few: each label is parsed once.
    names, inverse = np.unique(labels[rows], return_inverse=True)
    interventions = [_intervention(file, rule, label) for label in names.tolist()]
    suspects = [
        label
        for label, what in zip(names.tolist(), interventions, strict=True)
        if what and label not in rule.targets and means_control(label)
    ]
    if suspects:
        notes.append(
            f"{file.path}: obs[{rule.column!r}] has {', '.join(map(repr, suspects[:_SHOWN]))}, "
            "which reads like a control and is trained as a perturbation; name it in `control` "
            "if it is one"
        )
    return [interventions[i] for i in inverse.tolist()]


def _intervention(file: H5ad, rule: Perturbations, label: str) -> tuple[Intervention, ...]:
    try:
        return tuple(Intervention(kind=rule.kind, target=t) for t in parts_of(label, rule))
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        message = (
            f"{file.path}: obs[{rule.column!r}]: the label {label!r} is no name of a target "
            f"({why}); give another one in `targets`"
        )
        raise DataError(message) from error
    except ValueError as error:
        message = f"{file.path}: obs[{rule.column!r}]: {error}"
        raise DataError(message) from error


def _dosed(
    interventions: Sequence[tuple[Intervention, ...]],
    file: H5ad,
    column: str,
    rows: NDArray[np.int64],
) -> list[tuple[Intervention, ...]]:
    """Return the interventions with the doses of an obs column; control cells need none."""

    @cache  # Cells are many and doses few.
    def dosed(interventions: tuple[Intervention, ...], label: str) -> tuple[Intervention, ...]:
        dose = number_of(label)
        if dose is None or not 0 < dose < np.inf:
            message = (
                f"{file.path}: obs[{column!r}] is {label!r} for a perturbed cell "
                f"({', '.join(i.target for i in interventions)}); a dose is a number above 0. "
                "Correct the column, or train without `dose`"
            )
            raise DataError(message)
        return tuple(single.model_copy(update={"dose": dose}) for single in interventions)

    labels = file.column(column)[rows].tolist()
    return [dosed(d, label) if d else d for d, label in zip(interventions, labels, strict=True)]


def number_of(text: str) -> float | None:
    """Return the number that a label is; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _replicates(
    file: H5ad, spec: TrainingSpec, rows: NDArray[np.int64], notes: list[str]
) -> NDArray[np.str_]:
    """Return the replicate of each cell; "" where the file names none or says it is not known."""
    if spec.replicate is None or spec.replicate not in file.obs:
        return np.full(len(rows), "", dtype="U1")
    labels = file.texts(spec.replicate)
    names, code = np.unique(labels.values, return_inverse=True)
    # A donor `unknown` or `doublet` is cells of several donors.
    unknown = np.array([bool(UNKNOWN.fullmatch(name)) for name in names], bool)[code.ravel()]
    missing = (labels.missing() | unknown)[rows]
    if missing.any():
        notes.append(
            f"{file.path}: {int(missing.sum()):,} of {len(rows):,} cells have no replicate in "
            f"obs[{spec.replicate!r}]; they count as one more"
        )
    return np.where(missing, "", labels.values[rows])


Context = tuple[tuple[str, str], ...]


def without_control(contexts: Mapping[Context, tuple[int, int]]) -> tuple[set[Context], str]:
    """Return contexts whose perturbed cells have no control cells beside them, and words for them.

    Args:
        contexts: context to its numbers of control and of perturbed cells.

    Raises:
        DataError: there are perturbed cells, and none of them has control cells of its context.
    """
    bare = {c: n for c, (control, n) in contexts.items() if n and not control}
    if not bare:
        return set(), ""
    shown = [", ".join(f"{k}={v}" for k, v in context) for context in [*bare][:_SHOWN]]
    more = f" and {len(bare) - _SHOWN:,} more" if len(bare) > _SHOWN else ""
    if len(bare) == sum(1 for _, n in contexts.values() if n):
        message = (
            "no context has both perturbed and control cells, so that no effect can be told from "
            f"a difference of contexts: there is no control in {'; '.join(shown)}{more}. Leave out "
            "the context field that goes with the perturbation (such as a batch), or add controls"
        )
        raise DataError(message)
    return {*bare}, (
        f"{len(bare)} of {len(contexts)} contexts have no control cells, so that nothing can be "
        f"asked about them, and are left out with {sum(bare.values()):,} perturbed cells: "
        f"{'; '.join(shown)}{more}"
    )

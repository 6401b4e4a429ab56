"""What the labels of a perturbation column say of each cell: control, or which targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lingshu_model.contracts.messages import Intervention
from lingshu_model.train.data.labelled import parts_of
from lingshu_model.train.inspect.columns import Column
from lingshu_model.train.inspect.genes import GeneNames
from lingshu_model.train.inspect.options import Options
from lingshu_model.train.inspect.problems import GENETIC
from lingshu_model.train.inspect.targets import guide_targets, separator_of, without_controls
from lingshu_model.train.inspect.understanding import Problem
from lingshu_model.train.spec import Perturbations

_SHOWN = 3


@dataclass(frozen=True)
class Arms:
    """The perturbation of every cell.

    Attributes:
        rule: how labels are read.
        names: of conditions; "" is control. Empty where a label cannot be read.
        codes: the number of each cell's condition in `names`; -1 where it has none.
        guides: labels that name guides of a target.
        problems: what a person should know.
    """

    rule: Perturbations
    names: list[str]
    codes: NDArray[np.int64]
    guides: int
    problems: list[Problem]

    @classmethod
    def of(
        cls, column: Column, controls: Sequence[str], genes: GeneNames, options: Options
    ) -> "Arms":
        """Return the arms of a column whose control cells are called `controls`."""
        separator = options.separator
        if separator is None:
            separator = separator_of(column.labels, controls, genes.names)
        # "" on the command line says that no label is a combination; it is no separator.
        separator = separator or None
        # Before targets are parsed: a control part is no target of the pair.
        shorter = without_controls(column.labels, separator, controls)
        labels = [shorter.get(label, label) for label in column.labels]
        parts = {p.strip() for x in labels for p in (x.split(separator) if separator else [x])}
        # Sorted, so that targets and messages do not depend on the order of a set.
        named = sorted(parts - {*controls, ""})
        targets = guide_targets(named, column.name, genes.names)
        guides, problems = len(targets), list[Problem]()
        targets |= _called(named, targets, genes, options, problems)
        # "True" would name no target: what the column says was done does.
        if column.truth and [*controls] == ["False"]:
            targets["True"] = column.name
        # A label that is named as a whole is taken as it is: its parts are named here.
        targets |= {
            label: (separator or "").join(targets.get(p, p) for p in text.split(separator))
            for label, text in shorter.items()
        }
        rule = Perturbations(
            column=column.name,
            control=[*controls],
            kind=options.kind or "knockout",
            targets=targets,
            separator=separator,
        )
        return cls(rule, _names(column, rule, problems), column.codes, guides, problems)

    @property
    def control(self) -> NDArray[np.bool_]:
        """Which cells are control."""
        # Several labels may mean control; each has its number.
        place = [i for i, name in enumerate(self.names) if not name]
        return np.isin(self.codes, place)

    def counted(self, keep: NDArray[np.bool_]) -> dict[str, int]:
        """Return condition to its number of cells, control first, then the largest."""
        total: dict[str, int] = {}
        sizes = np.bincount(self.codes[keep & (self.codes >= 0)], minlength=len(self.names))
        for name, size in zip(self.names, sizes.tolist(), strict=True):
            total[name] = total.get(name, 0) + size
        return dict(sorted(total.items(), key=lambda item: (item[0] != "", -item[1], item[0])))


def _names(column: Column, rule: Perturbations, problems: list[Problem]) -> list[str]:
    """Return the condition that each label names; none at all where one cannot be read."""
    names: list[str] = []
    for label in column.labels:
        try:
            parts = parts_of(label, rule)
            # Made and dropped: the limits on a name are those of the request.
            for target in parts:
                Intervention(kind=rule.kind, target=target)
        except ValidationError:
            what = (
                f"the label {label!r} in obs[{column.name!r}] is no name of a target (1 to 64 "
                "characters)"
            )
            problems.append(Problem(what, "Shorten it", fatal=True))
            return []
        except ValueError as error:
            what = f"obs[{column.name!r}]: {error}"
            problems.append(Problem(what, "Or give --separator", fatal=True))
            return []
        names.append("+".join(parts))
    return names


def _called(
    parts: Sequence[str],
    targets: Mapping[str, str],
    genes: GeneNames,
    options: Options,
    problems: list[Problem],
) -> dict[str, str]:
    """Return parts of labels to the genes that they mean, where they are spelt otherwise."""
    if options.kind not in (None, *GENETIC):
        return {}
    meant = {p: genes.called(targets.get(p, p)) for p in parts}
    renamed = {part: gene for part, gene in meant.items() if gene}
    known = sum(targets.get(p, p) in genes.names for p in parts)
    # Where few labels are genes, one that is spelt like a gene may be a drug.
    if not renamed or len(renamed) + known < 0.5 * len(parts):
        return {}
    shown = [f"{part!r} is {gene!r}" for part, gene in [*renamed.items()][:_SHOWN]]
    more = f" and {len(renamed) - _SHOWN:,} more" if len(renamed) > _SHOWN else ""
    what = f"labels are called by the genes of the file: {', '.join(shown)}{more}"
    problems.append(Problem(what, "Say --kind drug or cytokine if they are no genes"))
    return renamed

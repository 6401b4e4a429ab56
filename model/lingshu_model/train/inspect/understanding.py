"""What a file is understood to hold: the proposal that a person says yes or no to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lingshu_model.train.inspect.targets import Kind

_SHOWN = 4


@dataclass(frozen=True)
class Problem:
    """Something that a person should know; a `fatal` one keeps it from being trained on.

    Attributes:
        what: what is wrong.
        remedy: what to do.
        fatal: whether training is refused.
    """

    what: str
    remedy: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}"


@dataclass(frozen=True)
class Understanding:
    """What a file holds, and how it would be trained on.

    Attributes:
        file: its path as it was given.
        cells: how many it has.
        genes: how many it has.
        counts: the matrix of raw counts; None = there is none.
        counts_words: what is in it, and what is in the others.
        depth: median counts a cell.
        gene_column: the var column with gene names; None = the index.
        gene_words: what genes are called.
        human: whether they are known to be human.
        perturbation: the obs column; None = there is none, and all cells are control cells if there
            are `conditions`.
        controls: names of control cells.
        targets: label to target, where labels name guides or spell a gene otherwise.
        guides: how many of them are guides.
        separator: between the targets of a combination.
        kind: what was done; None = there are no perturbed cells.
        conditions: perturbation to its number of cells, control ("") among them.
        context: context field to a constant, or to `obs:COLUMN`.
        contexts: context to the number of its control and its perturbed cells.
        replicate: the obs column of replicates.
        replicates: how many there are.
        unnamed: number of used cells whose replicate is not known.
        dose: the obs column of doses.
        time: the obs column of times.
        without: obs column to labels that say that a label is not known; such cells are left out.
        left_out: why to how many cells are left out.
        problems: what a person should know.
    """

    file: str
    cells: int
    genes: int
    counts: str | None
    counts_words: str
    depth: float
    gene_column: str | None
    gene_words: str
    human: bool = False
    perturbation: str | None = None
    controls: tuple[str, ...] = ()
    targets: Mapping[str, str] = field(default_factory=dict[str, str])
    guides: int = 0
    separator: str | None = None
    kind: Kind | None = None
    conditions: Mapping[str, int] = field(default_factory=dict[str, int])
    context: Mapping[str, str] = field(default_factory=dict[str, str])
    contexts: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    replicate: str | None = None
    replicates: int = 0
    unnamed: int = 0
    dose: str | None = None
    time: str | None = None
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])
    problems: tuple[Problem, ...] = ()

    @property
    def fatal(self) -> list[Problem]:
        """What keeps this file from being trained on."""
        return [problem for problem in self.problems if problem.fatal]

    @property
    def unperturbed(self) -> bool:
        """Whether all cells are taken as unperturbed, since no column says otherwise."""
        return self.perturbation is None and not any(self.conditions)

    @property
    def used(self) -> int:
        """How many cells are trained on."""
        return self.cells - sum(self.left_out.values())

    def lines(self) -> list[str]:
        """Return what was understood, at most ten lines."""
        rows = {
            "file": f"{self.file}: {self.cells:,} cells x {self.genes:,} genes",
            "counts": self.counts_words,
            "genes": self.gene_words,
            "perturbation": self._perturbation_words(),
            "control": self._control_words(),
            "kind": self._kind_words(),
            "context": self._context_words(),
            "replicate": self._replicate_words(),
            "left out": self._left_out_words(),
        }
        return [f"{name:<14}{words}" for name, words in rows.items()]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "status": "refused" if self.fatal else "succeeded",
            "file": self.file,
            "cells": self.cells,
            "genes": self.genes,
            "counts": self.counts,
            # NaN, of no matrix, has no JSON.
            "median_counts": None if self.depth != self.depth else self.depth,
            "gene_names": self.gene_column,
            "perturbation": self.perturbation,
            "control": [*self.controls],
            "targets": dict(self.targets),
            "separator": self.separator,
            "kind": self.kind and self.kind.name,
            "kind_assumed": bool(self.kind and self.kind.assumed),
            "conditions": dict(self.conditions),
            "context": dict(self.context),
            "contexts": {
                name: {"control": control, "perturbed": perturbed}
                for name, (control, perturbed) in self.contexts.items()
            },
            "replicate": self.replicate,
            "dose": self.dose,
            "time": self.time,
            "left_out": dict(self.left_out),
            "problems": [
                {"problem": p.what, "remedy": p.remedy, "fatal": p.fatal} for p in self.problems
            ],
            "lines": self.lines(),
        }

    def _perturbation_words(self) -> str:
        if self.perturbation is None:
            taken = "; say --perturbation COLUMN if something was done to some of the cells"
            return f"none{taken if self.conditions else ''}"
        perturbed = {name: n for name, n in self.conditions.items() if name}
        joined = sum("+" in name for name in perturbed)
        shown = [f"{name} ({n:,})" for name, n in [*perturbed.items()][:_SHOWN]]
        rest = f" and {len(perturbed) - _SHOWN:,} more" if len(perturbed) > _SHOWN else ""
        parts = [f"obs[{self.perturbation!r}]: {', '.join(shown)}{rest}"]
        if joined:
            parts.append(f"{joined:,} combinations, parted by {self.separator!r}")
        if self.guides:
            parts.append(f"{self.guides:,} guides joined by target")
        if self.dose:
            parts.append(f"doses in obs[{self.dose!r}]")
        return "; ".join(parts)

    def _control_words(self) -> str:
        if self.perturbation is None and self.conditions:
            return f"all {self.conditions['']:,} cells"
        if not self.controls:
            return "none"
        names = ", ".join(map(repr, self.controls[:_SHOWN]))
        rest = f" and {len(self.controls) - _SHOWN:,} more" * (len(self.controls) > _SHOWN)
        return f"{names}{rest}: {self.conditions.get('', 0):,} cells"

    def _kind_words(self) -> str:
        if self.kind is None:
            return "none: there are no perturbed cells" if self.conditions else "none"
        how = "assumed, since " if self.kind.assumed else ""
        other = "; say --kind if it is another" if self.kind.assumed else ""
        return f"{self.kind.name} ({how}{self.kind.because}{other})"

    def _context_words(self) -> str:
        fields = [
            f"obs[{value.removeprefix('obs:')!r}]"
            if value.startswith("obs:")
            else f"{name}={value}"
            for name, value in self.context.items()
        ]
        able = sum(bool(control and perturbed) for control, perturbed in self.contexts.values())
        arms = f", {able:,} with both arms" if self.perturbation else ""
        several = f": {len(self.contexts):,} contexts{arms}"
        return (" and ".join(fields) or "none") + (several if len(self.contexts) > 1 else "")

    def _replicate_words(self) -> str:
        if self.replicate is None:
            return "none named: cells are taken as independent"
        rest = f", and {self.unnamed:,} cells of none" if self.unnamed else ""
        return f"obs[{self.replicate!r}]: {self.replicates:,}{rest}"

    def _left_out_words(self) -> str:
        if not self.left_out:
            return "no cell"
        total = sum(self.left_out.values())
        why = ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.items())
        return f"{total:,} of {self.cells:,} cells: {why}"

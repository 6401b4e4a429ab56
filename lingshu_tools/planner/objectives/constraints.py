"""What candidates must not do, or be: genes that stay, targets to avoid, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.messages import Kind
from lingshu_tools.errors import InputError, NotFoundError, quoted
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.planner.candidates import Perturbation, resolve_candidate, with_kind
from lingshu_tools.planner.objectives.gene_lists import gene_symbols
from lingshu_tools.planner.objectives.guard import Keep, interval_end
from lingshu_tools.planner.objectives.requests import Request, joined

KEEP_WITHIN = 0.5
"""Bound of the 95 % interval of a gene that is to stay, log1p_cp10k."""
KINDS = tuple(get_args(Kind))


@dataclass(frozen=True)
class Constraints:
    """What candidates must not do, or be.

    Attributes:
        keep: panel genes that are to stay.
        within: bound of their 95 % intervals, log1p_cp10k.
        avoid: targets that are left out.
        kinds, targets: those that are allowed; empty = all.
        references: perturbations of `like`; a candidate that has one in it is like it by itself.
    """

    keep: tuple[str, ...] = ()
    within: float = KEEP_WITHIN
    avoid: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    targets: frozenset[str] = frozenset()
    references: tuple[Perturbation, ...] = ()

    def allows(self, part: Intervention) -> bool:
        """Return whether an intervention may be part of a candidate."""
        return self.refused(part) is None

    def refused(self, part: Intervention) -> str | None:
        """Return which constraint leaves out all candidates with an intervention."""
        if part.target in self.avoid:
            return "avoid"
        if (part,) in self.references:
            return "reference"
        wrong_kind = self.kinds and part.kind not in self.kinds
        return "only" if wrong_kind or (self.targets and part.target not in self.targets) else None

    def reason(self, design: Design) -> str | None:
        """Return which constraint leaves a candidate out; None where it stays."""
        for part in design.interventions:
            refused = self.refused(part)
            if refused:
                return refused
        if any(set(reference) <= set(design.interventions) for reference in self.references):
            return "reference"
        return None if self.farthest(design) <= self.within else "keep"

    def farthest(self, design: Design) -> float:
        """Return the far end of the widest 95 % interval of a gene that is to stay, log1p_cp10k.

        Infinite where nothing is known of the candidate, 0 without such genes.
        """
        targets = {i.target for i in design.interventions}
        checkpoint = design.checkpoint
        places = [checkpoint.panel.index(gene) for gene in self.keep if gene not in targets]
        if not places:
            return 0.0
        stored = stored_effect(design)
        if stored is None:
            return np.inf
        # The stored effect has the sd of a new experiment already.
        nothing = ErrorModel(posterior=1.0, between=0.0, square=0.0)
        ends = interval_end(stored.posterior, nothing, np.zeros(len(checkpoint.panel)))
        return float(ends[places].max())

    def keep_of(self, control: Design) -> Keep | None:
        """Return the same for combinations in closed form; None without genes that are to stay."""
        if not self.keep:
            return None
        evidence = control.checkpoint.evidence
        models = [ErrorModel.from_evidence(evidence, t) for t in ("seen", "combination_of_seen")]
        return Keep(self.keep, self.within, *models)


def _targets(checkpoint: Checkpoint, names: Sequence[str], argument: str) -> list[str]:
    """Return names with perturbations, as candidates are written, replaced by their targets.

    Raises:
        InputError: a name is a combination, or the target was trained with further kinds, which
            the name says nothing of.
    """
    result: list[str] = []
    for name in names:
        perturbation = _perturbation(checkpoint, name)
        if perturbation is None:
            result.append(name)
            continue
        known, *others = perturbation
        if others:
            message = (
                f"{argument} has {quoted(name)}, a combination; {argument} takes single targets "
                "and kinds: list the combinations themselves in candidates"
            )
            raise InputError(message)
        kinds = [k for k, targets in checkpoint.targets.items() if known.target in targets]
        if len(kinds) > 1:
            message = (
                f"{argument} has {quoted(name)}, and {known.target} was trained with "
                f"{', '.join(kinds)}; {argument} takes targets for all of their kinds: name "
                f"{quoted(known.target)}, or list the candidates themselves"
            )
            raise InputError(message)
        result.append(known.target)
    return result


def _perturbation(checkpoint: Checkpoint, name: str) -> Perturbation | None:
    """Return the perturbation that a name with a kind or a plus is; None for any other name.

    Raises:
        NotFoundError: a name with a kind is of no trained target.
    """
    if with_kind(name) is not None:
        return resolve_candidate(checkpoint, name)
    if "+" not in name:
        return None
    # Without a kind: a combination of targets, or the name of a gene set or file with a plus.
    with suppress(InputError):
        combination = resolve_candidate(checkpoint, name)
        return combination if len(combination) > 1 else None
    return None


def constraints_of(
    checkpoint: Checkpoint,
    home: Path,
    request: Request,
    keep: tuple[str, ...],
    references: tuple[Perturbation, ...],
) -> Constraints:
    """Return the constraints of a request, every name resolved.

    Raises:
        InputError: a bound, kind, name or file is wrong, or they contradict each other.
    """
    within = KEEP_WITHIN if request.keep_within is None else request.keep_within
    if not 0 < within < np.inf:
        message = f"keep_within={within:g} is no bound; give log1p_cp10k above 0, such as 0.5"
        raise InputError(message)
    if request.keep_within is not None and not keep:
        message = f"keep_within={within:g} bounds nothing: name the genes that are to stay in keep"
        raise InputError(message)
    if keep and checkpoint.effects is None:
        message = f"{checkpoint.name!r} stores no effects, so keep cannot be checked; leave it out"
        raise InputError(message)
    trained = ", ".join(k for k in checkpoint.targets if k != "sham") or "none"
    kinds = tuple(sorted({k.casefold() for k in request.only if k.casefold() in KINDS}))
    wrong = [k for k in kinds if k not in checkpoint.targets]
    if wrong:
        message = f"only {wrong[0]}: {checkpoint.name!r} was trained on the kinds {trained}"
        raise InputError(message)
    named = [name for name in request.only if name.casefold() not in KINDS]
    try:
        targets = gene_symbols(checkpoint, _targets(checkpoint, named, "only"), home, "only")
    except NotFoundError as error:
        # What stands in `only` may have been meant as a kind.
        message = f"{error} Kinds that only may name: {trained}."
        raise NotFoundError(message, error.replacing) from error
    avoided = _targets(checkpoint, request.avoid, "avoid")
    avoid = gene_symbols(checkpoint, avoided, home, "avoid")
    if targets and set(targets) <= set(avoid):
        message = f"only and avoid contradict: all of {joined(targets)} are to be avoided"
        raise InputError(message)
    return Constraints(keep, within, frozenset(avoid), kinds, frozenset(targets), references)

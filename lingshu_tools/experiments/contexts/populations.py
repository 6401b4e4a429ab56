"""The context of a call: one that was trained, or several that are mixed as in training.

The cells of a donor or a data set are p(cell) = sum over types of p(type) p(cell | type). So a
population is sampled by drawing the context of every cell by its number of training cells, then
the cell of that context (ancestral sampling): exact, and with a network that always gets a whole
context.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Checkpoint, Intervention, MixturePart, Support
from lingshu_model.contracts.effects import entry_identity, identity
from lingshu_model.contracts.messages import MAX_PARTS
from lingshu_tools.calls.results import call_text
from lingshu_tools.errors import InputError, quoted
from lingshu_tools.experiments.contexts.naming import context_label, spelled

CONTROL, PERTURBED = "control", "perturbed"
SHOWN = 8
"""Contexts that an error names."""
_TIERS = ("seen", "seen_elsewhere", "combination_of_seen", "unseen")
"""From the best supported to the least."""
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Mixture:
    """The contexts that the cells of a population are drawn from.

    Attributes:
        parts: contexts with their training cells, in the order of the checkpoint.
        of: whose numbers of training cells the weights are: `control` or `perturbed` cells.
    """

    parts: tuple[MixturePart, ...]
    of: str

    @classmethod
    def of_request(cls, request: Mapping[str, Any]) -> "Mixture | None":
        """Return the mixture that a row's request has; None where it has one context."""
        given = request.get("mixture")
        if given is None:
            return None
        return cls(tuple(MixturePart.model_validate(p) for p in given["parts"]), given["of"])

    @property
    def record(self) -> dict[str, Any]:
        """The same as it is written in the request of a row."""
        return {"of": self.of, "parts": [part.model_dump(mode="json") for part in self.parts]}

    @property
    def weights(self) -> NDArray[np.float64]:
        """Shares of the parts, adding up to 1, [parts]."""
        cells = np.array([part.weight for part in self.parts], np.float64)
        return cells / cells.sum()

    @property
    def mixed_fields(self) -> list[str]:
        """The context fields in which parts differ, in their order."""
        values: dict[str, set[str]] = {}
        for part in self.parts:
            for name, value in part.context.items():
                values.setdefault(name, set()).add(value)
        return [name for name, different in values.items() if len(different) > 1]

    @property
    def shown_field(self) -> str:
        """The context field that a composition is shown by: of several the type of cells."""
        mixed = self.mixed_fields
        return next((name for name in mixed if "type" in name.casefold()), mixed[0])

    def composition(self, cells: Sequence[int]) -> list[tuple[str, int, float]]:
        """Return value, cells and training share of each value of the field shown, most first.

        Args:
            cells: numbers of cells by part.
        """
        field, counted, shares = self.shown_field, Counter[str](), Counter[str]()
        for part, n, share in zip(self.parts, cells, self.weights.tolist(), strict=True):
            counted[part.context[field]] += n
            shares[part.context[field]] += share
        return [(value, counted[value], share) for value, share in shares.most_common()]

    def support(self, checkpoint: Checkpoint, interventions: Sequence[Intervention]) -> Support:
        """Return what the checkpoint has seen of a perturbation in all parts: of the least."""
        if not interventions:
            n = sum(part.weight for part in self.parts)
            return Support("seen", n, f"{n:,} training cells of {len(self.parts)} contexts")
        every = [checkpoint.support(part.context, interventions) for part in self.parts]
        least = max(every, key=lambda s: _TIERS.index(s.tier))
        if least.tier == "seen":
            n = sum(s.n_cells for s in every)
            return Support("seen", n, f"{n:,} training cells of {len(every)} contexts")
        here = sum(s.tier == least.tier for s in every)
        return Support(least.tier, 0, f"{least.note}; so in {here} of {len(every)} contexts")


def resolve_context(checkpoint: Checkpoint, arguments: Mapping[str, str] | None) -> dict[str, str]:
    """Return the one trained context that fits what was asked; fields left out are free.

    Raises:
        InputError: none or several fit; the contexts are listed.
    """
    given, fitting = _fitting(checkpoint, arguments)
    if len(fitting) == 1:
        return fitting[0]
    such = (fitting or checkpoint.contexts)[0]
    fields = json.dumps(_fields(such), ensure_ascii=False)
    message = f"{_several(checkpoint, given, fitting)}. For example context={fields}"
    raise InputError(message)


def resolve_population(
    checkpoint: Checkpoint,
    arguments: Mapping[str, str] | None,
    interventions: Sequence[Intervention],
) -> tuple[dict[str, str], Mixture | None]:
    """Return the context that fits what was asked; where several do, the shared fields and all.

    Proportions are those of the training cells of the perturbation, if every context has some;
    else of control cells.

    Raises:
        InputError: no context fits, or those that fit cannot be mixed; a call that can is given.
    """
    given, fitting = _fitting(checkpoint, arguments)
    if len(fitting) == 1:
        return fitting[0], None
    if not fitting:
        call = _pooled(checkpoint, given)
        message = f"{_several(checkpoint, given, fitting)}. {call}"
        raise InputError(message)
    if not checkpoint.measure_alike(fitting):
        raise InputError(_apart(checkpoint, given, fitting))
    mixture = _mixture(checkpoint, fitting, interventions)
    if len(mixture.parts) > MAX_PARTS:
        message = (
            f"context={quoted(given)} fits {len(mixture.parts):,} contexts, and at most "
            f"{MAX_PARTS:,} are mixed; name {' or '.join(mixture.mixed_fields)}"
        )
        raise InputError(message)
    return given, mixture


def population_label(context: Mapping[str, str], mixture: Mixture | None) -> str:
    """Return where cells are from in one line: a context, or what mixed contexts share."""
    if mixture is None:
        return context_label(context)
    shared = context_label(context) or "all contexts"
    return f"{shared} ({len(mixture.parts)} contexts mixed)"


def _mixture(
    checkpoint: Checkpoint, fitting: Sequence[dict[str, str]], interventions: Iterable[Intervention]
) -> Mixture:
    wanted = identity(interventions)
    control, perturbed = (_training_cells(checkpoint, each) for each in (identity(()), wanted))
    keys = [_key(context) for context in fitting]
    # A context whose cells of the perturbation were left out of training has no share among them:
    # proportions are then known of control cells alone.
    whole = bool(wanted) and all(perturbed.get(key) for key in keys)
    counted = perturbed if whole else control
    parts = tuple(
        MixturePart(context=context, weight=counted[key])
        for context, key in zip(fitting, keys, strict=True)
        if counted.get(key)
    )
    return Mixture(parts, PERTURBED if whole else CONTROL)


def _training_cells(checkpoint: Checkpoint, wanted: object) -> dict[Key, int]:
    """Return the training cells of one perturbation, by context."""
    cells: dict[Key, int] = {}
    for entry in checkpoint.config["seen"]:
        if entry_identity(entry) == wanted:
            key = _key(entry["context"])
            cells[key] = cells.get(key, 0) + entry["n_cells"]
    return cells


def _key(context: Mapping[str, str]) -> Key:
    return tuple(sorted(context.items()))


def _fitting(
    checkpoint: Checkpoint, arguments: Mapping[str, str] | None
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return what was asked, spelled as trained, and the contexts that fit it."""
    given = spelled(checkpoint, dict(arguments or {}))
    return given, [c for c in checkpoint.contexts if given.items() <= c.items()]


def _several(checkpoint: Checkpoint, given: object, fitting: Sequence[dict[str, str]]) -> str:
    every = fitting or checkpoint.contexts
    more = f"; … ({len(every)} in all; describe_model pages through them)" if every[SHOWN:] else ""
    shown = "; ".join(map(str, every[:SHOWN])) + more
    reason = "fits no context" if not fitting else f"fits {len(fitting)} contexts; choose one"
    return f"context={quoted(given)} {reason} of {checkpoint.name!r}: {shown}"


def _apart(
    checkpoint: Checkpoint, given: Mapping[str, str], fitting: Sequence[dict[str, str]]
) -> str:
    """Return why contexts are not mixed, and a call that mixes some of them, or has one."""
    field, value = _dividing(checkpoint, fitting) or ("", "")
    named = {**given, field: value} if field else fitting[0]
    # Without mixing there is always the whole context.
    return (
        f"context={quoted(given)} fits {len(fitting)} contexts of {checkpoint.name!r} that measure "
        f"different genes, so their cells are not mixed. Name {field or 'every field'}: "
        f"{_sampling(checkpoint, named)}"
    )


def _dividing(checkpoint: Checkpoint, fitting: Sequence[dict[str, str]]) -> tuple[str, str] | None:
    """Return a field and the value of it whose contexts are most, if all then measure alike."""
    mixed = [f for f in fitting[0] if len({c.get(f) for c in fitting}) > 1]
    for field in mixed:
        by_value: dict[str, list[dict[str, str]]] = {}
        for context in fitting:
            by_value.setdefault(context[field], []).append(context)
        if all(map(checkpoint.measure_alike, by_value.values())):
            return field, max(by_value, key=lambda v: len(by_value[v]))
    return None


def _pooled(checkpoint: Checkpoint, given: Mapping[str, str]) -> str:
    """Return a call that can be: without the values that were not trained, if that is mixed."""
    trained = {name: value for entry in checkpoint.contexts for name, value in entry.items()}
    known = {
        name: value
        for name, value in given.items()
        if any(context.get(name) == value for context in checkpoint.contexts)
    }
    new = [name for name in given if name in trained and name not in known]
    fitting = [c for c in checkpoint.contexts if known.items() <= c.items()]
    if not new or len(fitting) < 2 or not checkpoint.measure_alike(fitting):
        return f"For example {_sampling(checkpoint, (fitting or checkpoint.contexts)[0])}"
    return (
        f"No {' and '.join(new)} of this name was trained; without it cells are pooled over all "
        f"that were: {_sampling(checkpoint, known)}"
    )


def _sampling(checkpoint: Checkpoint, context: Mapping[str, str]) -> str:
    where = {"context": _fields(context)} if context else {}
    return call_text("sample_cells", checkpoint=checkpoint.name, **where)


def _fields(context: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a context in the published form of the argument."""
    return [{"field": name, "value": value} for name, value in context.items()]

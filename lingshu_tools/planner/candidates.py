"""Candidates of a screen written as text: `STAT1`, `STAT1 knockout`, `JAK2 knockout + STAT1`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar, get_args

from pydantic import ValidationError

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.messages import Kind
from lingshu_tools.errors import InputError, NotFoundError, quoted
from lingshu_tools.experiments.designs import label_of, resolve_interventions

Perturbation = tuple[Intervention, ...]
Candidate = str | Sequence[Intervention]

MAX_TOGETHER = 16
E = TypeVar("E", bound=InputError)


def resolve_candidate(checkpoint: Checkpoint, candidate: Candidate) -> Perturbation:
    """Return the interventions of a candidate, resolved and in canonical order.

    Args:
        checkpoint: what was trained.
        candidate: its interventions; or a text of targets joined by ` + `, each with its kind, or
            without where only one kind of intervention was trained on it. Labels of experiments
            are such texts.

    Raises:
        InputError: unknown targets or kinds, a target of several kinds, or too many interventions.
    """
    if not isinstance(candidate, str):
        return resolve_interventions(checkpoint, _combination(candidate))
    try:
        return _single(checkpoint, candidate)
    except NotFoundError:
        # Targets may hold a plus themselves, so the whole text is tried first.
        parts = candidate.split(" + " if " + " in candidate else "+")
        if len(parts) == 1:
            raise
    interventions = [i for part in parts for i in _single(checkpoint, part)]
    return resolve_interventions(checkpoint, _combination(interventions))


def _single(checkpoint: Checkpoint, text: str) -> Perturbation:
    """Return the one intervention that a text without a plus names."""
    explicit = with_kind(text)
    if explicit is not None:
        with suppress(InputError):
            return resolve_interventions(checkpoint, [explicit])
    matches: list[Perturbation] = []
    refused: list[NotFoundError] = []
    for kind in checkpoint.targets:
        record = None if kind == "sham" else _intervention(kind, text)
        if record is None:
            continue
        try:
            matches.append(resolve_interventions(checkpoint, [record]))
        except NotFoundError as error:
            refused.append(error)
    if len(matches) == 1:
        return matches[0]
    if explicit is not None and not matches:
        try:
            return resolve_interventions(checkpoint, [explicit])
        except InputError as error:
            raise with_match(checkpoint, text, error) from error
    if refused and not matches:
        raise with_match(checkpoint, text, refused[0])
    kinds = ", ".join(label_of(p) for p in matches) or "nothing: it has no intervention kind"
    message = (
        f"candidate {quoted(text)} could be {kinds}. Write it with its kind, "
        f"e.g. {quoted(f'{text} knockout')}."
    )
    raise InputError(message)


def with_match(checkpoint: Checkpoint, text: str, error: E) -> E:
    """Return an error with what would match a target that is followed by a kind it lacks.

    Kinds are written in many words: "JAK2 activation", "JAK2 knockdown", "JAK2 KO".
    """
    explicit, match = with_kind(text), trained_match(checkpoint, text)
    # A trained kind whose dose is wrong has an error that says so.
    known = explicit is not None and explicit.kind in checkpoint.targets
    if match is None or (known and not isinstance(error, NotFoundError)):
        return error
    target, labels = match
    message = (
        f"{checkpoint.name!r} has no {quoted(text)}: {target} was trained as "
        f"{', '.join(labels)}. Write {' or '.join(repr(label) for label in labels)}; "
        "describe_model lists other checkpoints."
    )
    return type(error)(message, {text: labels[0]})


def trained_match(checkpoint: Checkpoint, text: str) -> tuple[str, list[str]] | None:
    """Return the trained target that a text begins with, and its trained labels; None without."""
    words = text.split()
    for end in range(len(words) - 1, 0, -1):
        target = " ".join(words[:end])
        labels: list[str] = []
        for kind in checkpoint.targets:
            record = None if kind == "sham" else _intervention(kind, target)
            with suppress(InputError):
                if record is not None:
                    labels.append(label_of(resolve_interventions(checkpoint, [record])))
        if labels:
            return target, labels
    return None


def with_kind(text: str) -> Intervention | None:
    """Return the intervention of `target kind` or `target kind dose`, the form of labels."""
    words = text.split()
    dose = None
    if len(words) > 2 and words[-2].casefold() in get_args(Kind):
        with suppress(ValueError):
            dose = float(words[-1])
            words = words[:-1]
    # Kinds are lower-case; people write "Knockout" and "CRISPRa" too.
    if len(words) < 2 or words[-1].casefold() not in get_args(Kind):
        return None
    return _intervention(words[-1].casefold(), " ".join(words[:-1]), dose)


def _intervention(kind: str, target: str, dose: float | None = None) -> Intervention | None:
    try:
        return Intervention.model_validate({"kind": kind, "target": target, "dose": dose})
    except ValidationError:
        return None


def _combination(interventions: Sequence[Intervention]) -> Sequence[Intervention]:
    if not 1 <= len(interventions) <= MAX_TOGETHER:
        message = (
            f"a candidate holds {len(interventions)} interventions; 1 to {MAX_TOGETHER} can be "
            "combined. The control is not listed: every candidate is scored against it."
        )
        raise InputError(message)
    return interventions

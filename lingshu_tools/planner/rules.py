"""Candidates by rule: `all_panel`, `pairs_of all_seen`, `combinations_of 3 STAT1, JAK2, IRF1`.

A rule is a text, or the object that says the same: `{"pairs_of": "all_seen"}`,
`{"combinations_of": ["STAT1", "JAK2", "IRF1"], "size": 3}`, `{"gene_set": "NAME"}`. What is
combined is `all_seen`, `all_panel`, a gene set, or names. Gene sets are read from the GMT files in
`HOME/gene_sets`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_tools.errors import InputError, NotFoundError, did_you_mean, quoted
from lingshu_tools.experiments.designs import label_of
from lingshu_tools.planner.candidates import resolve_candidate

ALL_SEEN, ALL_PANEL = "all_seen", "all_panel"
GENE_KINDS = ("knockout", "crispri", "crispra")
MOST_TOGETHER = 16
GENE_SETS = "gene_sets"
_RULE = re.compile(r"(pairs_of|combinations_of|gene_set|all_panel|all_seen)\b\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """All combinations of `size` of some single perturbations.

    Attributes:
        text: the rule in canonical form, which says the same on the same checkpoint.
        size: perturbations of each candidate; 1 for these themselves.
        parts: what is combined, in canonical order.
        left_out: names that are no trained target.
    """

    text: str
    size: int
    parts: tuple[Intervention, ...]
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many candidates the rule has."""
        return comb(len(self.parts), self.size)


def rule_text(value: object) -> str | None:
    """Return the text of a rule; None of what is none.

    Raises:
        InputError: an object that is no rule.
    """
    if isinstance(value, str):
        return value if _RULE.fullmatch(value.strip()) else None
    if isinstance(value, Mapping):
        return _text_of({str(k): v for k, v in value.items()})
    return None


def resolve_rule(
    checkpoint: Checkpoint, context: Mapping[str, str], text: str, home: Path | None
) -> Rule:
    """Return what a rule stands for in a context.

    Args:
        checkpoint: what was trained.
        context: whose perturbations `all_seen` are.
        text: the rule.
        home: where gene sets are; None where none can be named.

    Raises:
        InputError: the rule cannot be read, names something unknown, or combines too few.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise InputError(_help(text))
    word, rest = match[1], match[2].strip()
    size = 1
    if word == "pairs_of":
        size, base = 2, rest
    elif word == "combinations_of":
        size, base = _size(text, rest)
    else:
        base = text.strip()
    parts, name, left_out = _base(checkpoint, context, base, home)
    if len(parts) < size:
        message = (
            f"{quoted(text)} combines {size} of {len(parts)} perturbations: name {size} or more, "
            f"or a smaller size. {_help(text)}"
        )
        raise InputError(message)
    prefix = "" if size == 1 else f"combinations_of {size} "
    return Rule(f"{prefix}{name}", size, parts, left_out)


def seen_alone(checkpoint: Checkpoint, context: Mapping[str, str]) -> list[Intervention]:
    """Return the single interventions trained in a context, null labels left out."""
    return [
        Intervention(**entry["interventions"][0])
        for entry in checkpoint.config["seen"]
        if entry["context"] == dict(context)
        and len(entry["interventions"]) == 1
        and entry["interventions"][0]["kind"] != "sham"
    ]


def read_gene_sets(home: Path) -> dict[str, list[str]]:
    """Return the gene sets of the GMT files of a home, by name."""
    sets: dict[str, list[str]] = {}
    for file in sorted((home / GENE_SETS).glob("*.gmt")):
        for line in file.read_text("utf-8").split("\n"):
            name, *rest = line.rstrip("\n").split("\t")
            if len(rest) > 1:
                sets[name] = [gene for gene in rest[1:] if gene]
    return sets


def _size(text: str, rest: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)\s+(.+)", rest, re.DOTALL)
    if match is None or not 1 <= int(match[1]) <= MOST_TOGETHER:
        message = f"{quoted(text)} has no size from 1 to {MOST_TOGETHER}. {_help(text)}"
        raise InputError(message)
    return int(match[1]), match[2].strip()


def _base(
    checkpoint: Checkpoint, context: Mapping[str, str], base: str, home: Path | None
) -> tuple[tuple[Intervention, ...], str, tuple[str, ...]]:
    """Return perturbations in canonical order, their canonical name, and names left out."""
    word, _, rest = base.partition(" ")
    if base == ALL_SEEN:
        return _ordered(seen_alone(checkpoint, context)), ALL_SEEN, ()
    if word == ALL_PANEL:
        kind = rest.strip() or _panel_kind(checkpoint)
        if kind not in GENE_KINDS:
            message = f"all_panel has the kind {quoted(kind)}; there are {', '.join(GENE_KINDS)}"
            raise InputError(message)
        genes = sorted(set(checkpoint.panel) | set(checkpoint.targets.get(kind, [])))
        singles = [Intervention.model_validate({"kind": kind, "target": g}) for g in genes]
        return _ordered(singles), f"{ALL_PANEL} {kind}", ()
    if word == "gene_set":
        return _gene_set(checkpoint, rest.strip(), home)
    names = [name for part in base.split(",") if (name := part.strip())]
    singles = [i for name in names for i in resolve_candidate(checkpoint, name)]
    parts = _ordered(singles)
    return parts, ", ".join(label_of([i]) for i in parts), ()


def _gene_set(
    checkpoint: Checkpoint, name: str, home: Path | None
) -> tuple[tuple[Intervention, ...], str, tuple[str, ...]]:
    sets = read_gene_sets(home) if home else {}
    if name not in sets:
        where = f"{GENE_SETS}/*.gmt of the home"
        near = did_you_mean(name, sets)
        message = f"no gene set {quoted(name)} in {where}, which has {len(sets)}.{near}"
        raise NotFoundError(message)
    parts: list[Intervention] = []
    left_out: list[str] = []
    for gene in sets[name]:
        try:
            parts += resolve_candidate(checkpoint, gene)
        except InputError:
            left_out.append(gene)
    ordered = _ordered(parts)
    # The file may change: what is recorded is what it said.
    return ordered, ", ".join(label_of([i]) for i in ordered), tuple(left_out)


def _panel_kind(checkpoint: Checkpoint) -> str:
    """Return the kind that most genes were perturbed with; knock-out where none was."""
    trained = {kind: len(checkpoint.targets.get(kind, [])) for kind in GENE_KINDS}
    return max(GENE_KINDS, key=lambda kind: trained[kind])


def _ordered(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    unique = {i.sort_key: i for i in interventions}
    return tuple(unique[key] for key in sorted(unique))


def _text_of(record: dict[str, Any]) -> str:
    match record:
        case {"pairs_of": base, **rest} if not rest:
            return f"pairs_of {_base_text(base)}"
        case {"combinations_of": base, "size": int(size), **rest} if not rest:
            return f"combinations_of {size} {_base_text(base)}"
        case {"gene_set": str(name), **rest} if not rest:
            return f"gene_set {name}"
        case _:
            raise InputError(_help(record))


def _base_text(base: object) -> str:
    if isinstance(base, str) and base.strip():
        return base.strip()
    if isinstance(base, Mapping):
        return _text_of({str(k): v for k, v in base.items()})
    if isinstance(base, list) and base and all(isinstance(name, str) for name in base):
        names = [str(name) for name in base]
        return names[0] if len(names) == 1 else ", ".join(names)
    raise InputError(_help(base))


def _help(value: object) -> str:
    return (
        f"{quoted(value)} is no rule of candidates. Rules are all_seen, all_panel, gene_set NAME, "
        'pairs_of and combinations_of SIZE with one of these or names, e.g. "pairs_of all_seen", '
        '"combinations_of 3 STAT1, JAK2, IRF1" or {"combinations_of": ["STAT1", "JAK2", "IRF1"], '
        '"size": 3}'
    )

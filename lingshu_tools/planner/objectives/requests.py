"""An objective as a call has it, and how lists of names are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """An objective as it is asked for.

    Attributes:
        up, down: genes and gene sets to raise and to lower.
        like, unlike: perturbations, as candidates are written.
        toward: an experiment's id, or the fields of a context; None without.
        toward_weight: of it.
        magnitude: weight of a large effect, negative for a small one; None without.
        keep: genes and gene sets that are to stay.
        keep_within: bound of their 95 % intervals, log1p_cp10k; None = `KEEP_WITHIN`.
        avoid: targets that are left out: genes, gene sets, files of genes.
        only: kinds or targets that are allowed.
    """

    up: Sequence[str] = ()
    down: Sequence[str] = ()
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    toward: str | Mapping[str, str] | None = None
    toward_weight: float = 1.0
    magnitude: float | None = None
    keep: Sequence[str] = ()
    keep_within: float | None = None
    avoid: Sequence[str] = ()
    only: Sequence[str] = ()


def few(names: Sequence[str]) -> list[str]:
    """Return at most six names; of more the first five, and how many there are."""
    return list(names) if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]


def joined(names: Sequence[str]) -> str:
    """Return names as in a sentence: `A, B and C`."""
    shown = few(names)
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)

"""The default way to fill a plate: wells are shared among strategies by what each has hit so far.

A strategy is an order of candidates: by the surrogate (exploit, UCB, Thompson, diverse), by known
priors (genes of a file, other screens), by the nearest measured hits, or at random. With h hits in
n wells of a strategy and the rate r of all wells, its share of the next plate is proportional to

    ((h + STRENGTH r) / (n + STRENGTH))^POWER,

and no smaller than `LEAST`. So a list of known genes is followed where it hits, and left where it
does not. A well counts for every strategy that would have chosen its candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.intp]
STRENGTH = 8.0
"""Wells of the common rate that every strategy begins with."""
POWER = 3.0
LEAST = 0.03
"""Smallest share of a plate, so that a strategy can still prove itself."""


@dataclass(frozen=True)
class Credit:
    """What a strategy has hit so far.

    Attributes:
        hits: among its wells.
        wells: measured candidates that it would have chosen.
    """

    hits: int = 0
    wells: int = 0


def shares(known: Mapping[str, Credit], rate: float) -> dict[str, float]:
    """Return the share of each strategy in the next plate; they add up to 1.

    Args:
        known: credit of every strategy.
        rate: hits of all wells so far over their number.
    """
    rate = max(rate, 1e-3)
    rates = {name: (c.hits + STRENGTH * rate) / (c.wells + STRENGTH) for name, c in known.items()}
    powers = {name: r**POWER for name, r in rates.items()}
    total = sum(powers.values())
    least = min(LEAST, 1 / max(len(powers), 1))
    free = 1 - least * len(powers)
    return {name: least + free * power / total for name, power in powers.items()}


def fill(
    orders: Mapping[str, Sequence[int] | Integers], share: Mapping[str, float], n: int
) -> dict[int, list[str]]:
    """Return the chosen candidates, and the strategies that would have chosen each.

    Strategies take turns, the one that is farthest below its share next.
    """
    remaining = {name: iter(list(order)) for name, order in orders.items()}
    taken: dict[str, int] = dict.fromkeys(orders, 0)
    chosen: dict[int, list[str]] = {}
    while remaining and len(chosen) < n:
        name = min(remaining, key=lambda s: ((taken[s] + 1) / max(share[s], 1e-9), s))
        candidate = next((c for c in remaining[name] if int(c) not in chosen), None)
        if candidate is None:
            del remaining[name]
            continue
        taken[name] += 1
        chosen[int(candidate)] = [name]
    for name, order in orders.items():
        first = {int(c) for c in list(order)[: max(1, round(share[name] * n))]}
        for candidate, names in chosen.items():
            if candidate in first and name not in names:
                names.append(name)
    return chosen


def credited(
    before: Mapping[str, Credit], chosen: Mapping[int, Sequence[str]], hits: set[int]
) -> dict[str, Credit]:
    """Return the credit of strategies after a plate was measured."""
    result = dict(before)
    for candidate, names in chosen.items():
        for name in names:
            old = result.get(name, Credit())
            result[name] = Credit(old.hits + (candidate in hits), old.wells + 1)
    return result

"""The lines about evidence that a training run prints when it ends."""

from collections.abc import Mapping
from typing import Any

_TIERS = {
    "seen": "a condition with cells",
    "seen_elsewhere": "a new context",
    "combination_of_seen": "a combination",
    "unseen": "a new target",
}


def evidence_lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return the held-out figure of each tier beside the best simple predictor's, a line each."""
    lines: list[str] = []
    for tier, words in _TIERS.items():
        if tier not in evidence.get("tiers", {}):
            continue
        figures = evidence["tiers"][tier]
        if figures is None:
            why = evidence.get("not_estimable", {}).get(tier, "nothing was held out")
            lines.append(f"held out, {words}: not estimable ({why})")
            continue
        head = figures["headline"]
        best = head["best_simple"]
        lines.append(
            f"held out, {words}: Pearson of change {_shown(head['model']['value'])}, best simple "
            f"predictor {_shown(best['value'])} ({best['predictor'].replace('_', ' ')})"
        )
    return lines


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"

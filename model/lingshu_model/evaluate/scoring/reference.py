"""Real cells, prepared once, that predictions are scored against.

Knows nothing of where the cells come from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lingshu_model.evaluate.scoring import scaled, vcc2025, vcc2026
from lingshu_model.evaluate.scoring.cells import Side, predicted_side, real_side
from lingshu_model.evaluate.scoring.scaled import Scale
from lingshu_model.evaluate.scoring.tidy import Row, Scores
from lingshu_model.evaluate.scoring.vcc2026 import Targets


@dataclass(frozen=True)
class Judgement:
    """What one prediction scored in the metrics of both years.

    Attributes:
        vcc2025: each side against its own control.
        vcc2026: both sides against the real control.
        scaled: the six of 2026 between context mean (0) and replicate (1), and their mean.
    """

    vcc2025: Scores
    vcc2026: Scores
    scaled: Mapping[str, float]

    def rows(self) -> Iterator[Row]:
        """Yield (perturbation, metric, value), unscaled."""
        yield from self.vcc2025.rows()
        yield from self.vcc2026.rows()


@dataclass(frozen=True)
class Reference:
    """Real cells and what is worked out of them but once.

    Attributes:
        side: the real cells.
        targets: each perturbation's own gene, as in `vcc2026.score`.
    """

    side: Side
    targets: Targets | None = None

    @classmethod
    def of(
        cls,
        real: Mapping[str, Any],
        genes: list[str],
        control: str,
        targets: Targets | None = None,
    ) -> "Reference":
        """Return the reference of real counts by condition, [cells, genes], dense or CSR."""
        return cls(real_side(real, genes, control), targets)

    @cached_property
    def scale(self) -> Scale:
        """The two ends of the scaled scores."""
        return scaled.scale(self.side, self.targets)

    def score(self, predicted: Mapping[str, Any]) -> Judgement:
        """Return the scores of predicted counts of the same perturbations.

        A prediction without control cells shares the real ones.
        """
        side = predicted_side(predicted, self.side)
        first = vcc2025.compare(self.side, self._profile2025, vcc2025.profile(side))
        against_real = vcc2026.profile(side, self._profile2026.control)
        second = vcc2026.compare(self._profile2026, against_real, self.targets)
        return Judgement(first, second, self.scale.of(second.aggregate))

    @cached_property
    def _profile2025(self) -> vcc2025.Profile:
        return vcc2025.profile(self.side)

    @cached_property
    def _profile2026(self) -> vcc2026.Profile:
        return vcc2026.profile(self.side)

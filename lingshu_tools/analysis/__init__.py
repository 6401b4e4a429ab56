"""The numbers: paired effects, the null labels, interactions, objective scores and held-out errors.

Plain numpy, no state, no clock.
"""

from lingshu_tools.analysis.aims import Aim, AimKind
from lingshu_tools.analysis.effects import Effect, expression_levels, interval, paired_effect
from lingshu_tools.analysis.null import NullLabels
from lingshu_tools.analysis.pairs.interactions import NotMeasuredError, expected, interaction
from lingshu_tools.analysis.residuals import PredictionError, Residuals
from lingshu_tools.analysis.scores import Objective, Score, Tangent, paired_score
from lingshu_tools.analysis.student import benjamini_hochberg, t_quantile, t_two_sided
from lingshu_tools.analysis.summaries import Summary, summarised

__all__ = [
    "Aim",
    "AimKind",
    "Effect",
    "NotMeasuredError",
    "NullLabels",
    "Objective",
    "PredictionError",
    "Residuals",
    "Score",
    "Summary",
    "Tangent",
    "benjamini_hochberg",
    "expected",
    "expression_levels",
    "interaction",
    "interval",
    "paired_effect",
    "paired_score",
    "summarised",
    "t_quantile",
    "t_two_sided",
]

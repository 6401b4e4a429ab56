"""The numbers: paired effects, the sham null, interactions, objective scores and held-out errors.

Plain numpy, no state, no clock. Knows nothing of ledgers, engines, tools or doors.
"""

from lingshu_tools.analysis.effects import Effect, expression_levels, interval, paired_effect
from lingshu_tools.analysis.interactions import NotMeasuredError, expected, interaction
from lingshu_tools.analysis.null import ShamNull
from lingshu_tools.analysis.residuals import PredictionError, Residuals
from lingshu_tools.analysis.scores import Objective, Score, paired_score
from lingshu_tools.analysis.student import benjamini_hochberg, t_quantile, t_two_sided
from lingshu_tools.analysis.summaries import Summary, summarised

__all__ = [
    "Effect",
    "NotMeasuredError",
    "Objective",
    "PredictionError",
    "Residuals",
    "Score",
    "ShamNull",
    "Summary",
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

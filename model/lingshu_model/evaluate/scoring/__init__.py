"""The metrics of two public challenges, exact to the tools that define them, and much faster.

`Reference` takes real cells once and scores any number of predictions of them. Only the
definitions are shared with the tools (`benchmarks/scoring` compares the two); nothing here imports
them. Knows nothing of models, files or reports.
"""

from lingshu_model.evaluate.scoring.cells import Side, predicted_side, real_side
from lingshu_model.evaluate.scoring.reference import Judgement, Reference
from lingshu_model.evaluate.scoring.scaled import Scale, context_mean, scale
from lingshu_model.evaluate.scoring.tidy import Row, Scores

__all__ = [
    "Judgement",
    "Reference",
    "Row",
    "Scale",
    "Scores",
    "Side",
    "context_mean",
    "predicted_side",
    "real_side",
    "scale",
]

"""How good a checkpoint is on cells that it was not trained on, beside simple predictors.

`python -m lingshu_model.evaluate CHECKPOINT` samples cells, writes tables and, on request, the
checkpoint's `evidence.json`. In Python: `build_study` of a `Split`, then `evaluate` with `Source`s
of predicted cells gives rows, `figures` averages and compares them. Metrics and simple predictors
are small functions in registries (`AGREEMENT`, `DISTRIBUTION`, `PREDICTORS`); nothing here but
`arms` needs torch.
"""

from lingshu_model.evaluate.compare import Estimate, compare_units, estimate, holm, verdict
from lingshu_model.evaluate.figures import Figure, figures
from lingshu_model.evaluate.metrics.agreement import AGREEMENT
from lingshu_model.evaluate.metrics.resampling import Draws
from lingshu_model.evaluate.metrics.samples import DISTRIBUTION
from lingshu_model.evaluate.predictors import PREDICTORS
from lingshu_model.evaluate.report import Report, evaluate
from lingshu_model.evaluate.rows import HeldOut, NamedSet, Row, read_rows, write_rows
from lingshu_model.evaluate.sources import Source
from lingshu_model.evaluate.study import Contrast, Population, Split, Study, build_study

__all__ = [
    "AGREEMENT",
    "DISTRIBUTION",
    "PREDICTORS",
    "Contrast",
    "Draws",
    "Estimate",
    "Figure",
    "HeldOut",
    "NamedSet",
    "Population",
    "Report",
    "Row",
    "Source",
    "Split",
    "Study",
    "build_study",
    "compare_units",
    "estimate",
    "evaluate",
    "figures",
    "holm",
    "read_rows",
    "verdict",
    "write_rows",
]

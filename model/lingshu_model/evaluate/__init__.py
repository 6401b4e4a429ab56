"""How good a checkpoint is on cells it never saw, beside the baselines it has to beat.

`python -m lingshu_model.evaluate CHECKPOINT` samples the cells, writes the tables and, when asked,
the checkpoint's `evidence.json`. All the numbers are made by torch-free functions of counts
matrices, so anything that draws cells can be judged by them. Knows nothing of the ledger or tools.
"""

from lingshu_model.evaluate.changes import Change, change_between, log1p_cp10k, paired_change
from lingshu_model.evaluate.copies import CopyCheck, copy_check
from lingshu_model.evaluate.distribution import DistributionError, compare_distributions
from lingshu_model.evaluate.effects import EffectTable, compare_effects
from lingshu_model.evaluate.estimates import Estimate, verdict
from lingshu_model.evaluate.observed import Observed, choose_sets

__all__ = [
    "Change",
    "CopyCheck",
    "DistributionError",
    "EffectTable",
    "Estimate",
    "Observed",
    "change_between",
    "choose_sets",
    "compare_distributions",
    "compare_effects",
    "copy_check",
    "log1p_cp10k",
    "paired_change",
    "verdict",
]

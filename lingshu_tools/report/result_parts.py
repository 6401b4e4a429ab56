"""Parts of results that several tools and views share."""

from pydantic import Field

from lingshu_tools.calls.results import Number, View
from lingshu_tools.experiments.needed_cells import RealCells


class GeneEffect(View):
    """One gene's paired effect."""

    detail_only = frozenset(
        {
            "control_mean",
            "perturbed_mean",
            "change_mc_interval",
            "model_mean",
            "additive",
            "sd",
            "real_cells",
        }
    )

    gene: str
    log2_fold_change: Number | None
    mc_interval: list[Number] | None = Field(
        default=None,
        description="95 % Monte Carlo interval of log2_fold_change; says nothing of model error",
    )
    control_mean: Number | None = None
    perturbed_mean: Number | None = None
    change: Number | None = Field(description="perturbed_mean - control_mean")
    change_mc_interval: list[Number] | None = None
    prediction_error: Number | None = Field(
        default=None, description="RMS held-out error of changes of this size"
    )
    sham_q: Number | None = Field(
        default=None, description="FDR against null labels; null with lfsr"
    )
    model_mean: Number | None = Field(
        default=None,
        description="Posterior mean of change, which sampled cells deliver",
    )
    additive: Number | None = Field(
        default=None, description="Of a combination: the sum of its parts' changes"
    )
    interval: list[Number] | None = Field(
        default=None, description="95 % interval of change in a new experiment"
    )
    sd: Number | None = Field(default=None, description="Sd of change in a new experiment")
    unresponsive_change: Number | None = Field(
        default=None, description="change, scaled by genes without an effect"
    )
    unresponsive_mc_interval: list[Number] | None = None
    real_cells: RealCells | None = Field(
        default=None, description="Real cells an arm to show it: as predicted, with doubt"
    )
    lfsr: Number | None = Field(default=None, description="How likely the sign of change is wrong")
    certainty: str | None = None


class CertainGeneEffect(GeneEffect):
    """A gene whose effect is stored: the interval of a new experiment holds that of sampling."""

    detail_only = GeneEffect.detail_only | {"mc_interval"}


class Magnitude(View):
    """The size of the whole effect: L2 norm of change over the measured genes.

    `value` is without the Monte Carlo noise that adds to a norm, which `raw` has. Null labels are
    corrected alike, and as they would be with as many cells.
    """

    detail_only = frozenset({"raw", "sham_median", "n_null_labels"})

    value: Number
    raw: Number | None = None
    mc_interval: list[Number] | None
    sham_median: Number | None = None
    sham_q95: Number | None
    sham_p: Number | None = Field(
        description="Rank p against sampled null labels; at best 1 / (null labels + 1)"
    )
    n_null_labels: int | None = None


class TargetCheck(View):
    """What happens to the target's own gene, where it is on the panel."""

    gene: str
    change: Number | None
    mc_interval: list[Number] | None
    note: str


class GeneMean(View):
    """One gene's mean over the sampled cells, beside the training cells'."""

    gene: str
    mean: Number
    training_mean: Number | None

"""Parts of results that several tools and views share."""

from pydantic import Field

from lingshu_tools.calls.results import Number, View


class GeneEffect(View):
    """One gene's paired effect."""

    gene: str
    log2_fold_change: Number | None
    mc_interval: list[Number] | None = Field(
        description="95 % Monte Carlo interval of log2_fold_change; says nothing of model error"
    )
    control_mean: Number | None
    perturbed_mean: Number | None
    change: Number | None = Field(description="perturbed_mean - control_mean")
    change_mc_interval: list[Number] | None
    prediction_error: Number | None = Field(
        description="RMS held-out error of change for this gene; None where none was measured"
    )
    sham_q: Number | None = Field(description="FDR of change against the null labels")
    model_mean: Number | None = Field(
        default=None,
        description="Posterior mean of change, which sampled cells deliver; None where the "
        "checkpoint stores no effects",
    )
    sd: Number | None = Field(default=None, description="Posterior standard deviation of change")
    lfsr: Number | None = Field(
        default=None, description="Local false sign rate: how likely the sign of change is wrong"
    )


class Magnitude(View):
    """The size of the whole effect: L2 norm of change over the measured genes."""

    value: Number
    mc_interval: list[Number] | None
    sham_median: Number | None
    sham_q95: Number | None
    sham_p: Number | None = Field(
        description="Rank p against the null labels; at best 1 / (null labels + 1)"
    )


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

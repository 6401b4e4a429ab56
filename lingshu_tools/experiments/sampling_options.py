"""How cells are sampled where a call says so: steps, guidance and genes that are set beforehand.

A checkpoint supports what its network does. Without a network there is nothing to sample in steps;
where effects are computed in closed form and delivered to control cells, there is nothing to guide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.gene_names import resolve_genes

TRAINING_CELLS = "training_cells"
"""The `delivery` of checkpoints that draw stored control cells."""
NAMED = 3
"""Clamped genes that a caveat names."""
DEFAULT_STEPS = 8
"""Of checkpoints whose `config.json` names none."""


@dataclass(frozen=True)
class Sampling:
    """How an experiment's cells are sampled.

    Attributes:
        steps: reverse steps of the diffusion.
        guidance: w of classifier-free guidance; 0 = none.
        clamp: UMI of genes that are set before the first step, by symbol.
    """

    steps: int
    guidance: float
    clamp: Mapping[str, int]


def default_sampling(checkpoint: Checkpoint) -> Sampling:
    """Return what a checkpoint is sampled with where a call says nothing."""
    given = checkpoint.config.get("sampler", {})
    steps, guidance = given.get("steps", DEFAULT_STEPS), given.get("guidance", 0.0)
    return Sampling(int(steps), float(guidance), {})


def resolve_sampling(
    checkpoint: Checkpoint,
    tool: str,
    interventions: Sequence[Intervention],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    clamp: Mapping[str, int] | None = None,
) -> Sampling:
    """Return how cells are sampled, the checkpoint's default where nothing is given.

    Args:
        checkpoint: resolved.
        tool: `sample_cells` or `perturb_cells`.
        interventions: resolved; empty = control cells.
        steps: reverse steps.
        guidance: w of classifier-free guidance.
        clamp: UMI by gene, as the caller names it.

    Raises:
        InputError: the checkpoint cannot do what is given; the reason and what it can do.
    """
    default = default_sampling(checkpoint)
    # A value that is the default asks for nothing: any checkpoint takes it.
    if steps is not None and steps != default.steps:
        _require_network(checkpoint, f"steps={steps}")
    if guidance is not None and guidance != default.guidance:
        _require_learned(checkpoint, f"guidance={guidance:g}")
        # Guidance extrapolates from control to perturbed; without an intervention both are the
        # same.
        if not interventions:
            message = (
                f"guidance={guidance:g} sharpens a perturbation against control; control cells "
                "have none. Leave it out, or name interventions"
            )
            raise InputError(message)
    if clamp:
        _require_network(checkpoint, "clamp")
        if tool == "perturb_cells":
            _require_learned(checkpoint, "clamp")
    return Sampling(
        default.steps if steps is None else steps,
        default.guidance if guidance is None else guidance,
        resolve_clamp(checkpoint, clamp or {}),
    )


def resolve_clamp(checkpoint: Checkpoint, clamp: Mapping[str, int]) -> dict[str, int]:
    """Return the UMI of clamped genes by symbol.

    Raises:
        InputError: a gene is unknown, or named twice.
    """
    symbols = resolve_genes(checkpoint, list(clamp)) if clamp else []
    # Two names of a gene are one symbol; equal names were one key before.
    if len(set(symbols)) < len(clamp):
        message = "clamp names a gene twice; each gene can have one count"
        raise InputError(message)
    return dict(zip(symbols, clamp.values(), strict=True))


def sampling_caveats(checkpoint: Checkpoint, sampling: Sampling) -> list[str]:
    """Return what a reader must know of cells that are not sampled by default."""
    default, said = default_sampling(checkpoint), list[str]()
    # Held-out figures were measured with the default, and say nothing of other settings.
    if (sampling.steps, sampling.guidance) != (default.steps, default.guidance):
        said.append(
            f"{sampling.steps} steps and guidance {sampling.guidance:g}; held-out figures are of "
            f"{default.steps} and {default.guidance:g}"
        )
    if sampling.clamp:
        said.append(f"counts of {_names(sampling.clamp)} are set, not simulated (clamp)")
    return said


def _names(clamp: Mapping[str, int]) -> str:
    shown = [f"{gene} = {count}" for gene, count in list(clamp.items())[:NAMED]]
    more = f" and {len(clamp) - NAMED} more" if len(clamp) > NAMED else ""
    return ", ".join(shown) + more


def _require_network(checkpoint: Checkpoint, what: str) -> None:
    if checkpoint.delivery != TRAINING_CELLS:
        return
    message = (
        f"{what} has no use: {checkpoint.name} draws stored control cells of its training data, "
        "not cells of a network. Leave it out, or name a checkpoint with a network"
    )
    raise InputError(message)


def _require_learned(checkpoint: Checkpoint, what: str) -> None:
    """Refuse what acts on perturbations that a network has learned."""
    # None: the network samples perturbed cells itself.
    if checkpoint.delivery is None:
        return
    clamps = " sample_cells takes clamp: it sets genes of control cells." if what == "clamp" else ""
    message = (
        f"{what} has no use: {checkpoint.name} computes effects in closed form and delivers them "
        f"to control cells, so its network has learned no perturbation.{clamps} Leave it out, or "
        "name a checkpoint trained with the recipe `paper`"
    )
    raise InputError(message)

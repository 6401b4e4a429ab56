"""The one row type of an evaluation, and files of rows.

A row is one figure of one predictor for one unit (a contrast or a pool of conditions), sampling
seed and fold. Bootstrap draws of rows that share metric, population, set and fold are the same
resamplings of the same cells, so that differences between predictors are paired.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lingshu_model.evaluate.metrics.matrices import Floats

MODEL = "model"
MONTE_CARLO = "model_monte_carlo"
"""The model's figure with draws over its own cells: the Monte Carlo error of their number."""
HELD_OUT = "held_out_cells"
"""The held-out cells themselves, for a figure that is a quantity and not an agreement."""
NOISE_CEILING = "noise_ceiling"
"""The expected figure of a perfect predictor, given the noise of the held-out cells."""
SPLIT_HALF, AT_HALF = "split_half_reference", "model_at_half"
"""One half of the held-out cells as a predictor of the other, and the model on that other half."""
REFERENCES = (MODEL, MONTE_CARLO, HELD_OUT, NOISE_CEILING, AT_HALF)
"""Rows that the model is not compared with."""
NO_DRAWS: Floats = np.zeros(0)
Kind = Literal["contrasts", "pools", "copies"]
Unit = tuple[str, str]
"""Population and set of a row."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        metric: what is measured.
        tier: what training has seen of the condition; "" of control cells.
        population: cells that measure the same genes.
        set: the contrast or the pool of conditions; after averaging, the named set of them.
        predictor: the model, a peer, a simple predictor or a reference.
        seed: sampling seed; None = there is none, or the mean over seeds.
        fold: what was held out.
        value: the figure.
        draws: [draws], the figure over resampled cells; empty where it has no interval.
    """

    metric: str
    tier: str
    population: str
    set: str
    predictor: str
    seed: int | None
    fold: str
    value: float
    draws: Floats = field(default_factory=lambda: NO_DRAWS, compare=False)


@dataclass(frozen=True)
class HeldOut:
    """A held-out contrast with the model's prediction of it.

    Attributes:
        name: of the contrast, the `set` of its rows.
        tier: what training has seen of it.
        population: cells that measure the same genes.
        fold: what was held out.
        context: field to value.
        interventions: kind, target and, where there is one, dose of each.
        n_cells: held-out perturbed, held-out control and training perturbed cells.
        genes: symbols.
        predicted: mean over seeds of the model's change, [genes]; None without a model.
        observed: the held-out change, log1p_cp10k [genes].
        noise: squared standard error of each entry of `observed`.
    """

    name: str
    tier: str
    population: str
    fold: str
    context: dict[str, str]
    interventions: list[dict[str, Any]]
    n_cells: Sequence[int]
    genes: Sequence[str]
    predicted: Floats | None
    observed: Floats
    noise: Floats

    @property
    def targets(self) -> str:
        """The targets, joined by `+`."""
        return "+".join(each["target"] for each in self.interventions)


@dataclass(frozen=True)
class NamedSet:
    """Units of a kind that are averaged; `tier` is that of contrasts and "" of other units."""

    name: str
    kind: Kind
    tier: str
    units: frozenset[Unit]


# Fields that are written as one float32 array; the rest is JSON.
_ARRAYS = {Row: ["draws"], HeldOut: ["predicted", "observed", "noise"], NamedSet: []}


def write_rows(
    path: Path, rows: Sequence[Row], held_out: Sequence[HeldOut], sets: Sequence[NamedSet]
) -> None:
    """Write rows, held-out contrasts and named sets as one npz file; arrays as float32."""
    plain: list[list[Any]] = []
    arrays: list[Floats] = []
    for each in (*rows, *held_out, *sets):
        apart = _ARRAYS[type(each)]
        # In the order of the fields: readers pass them by position.
        values = [(f.name, getattr(each, f.name)) for f in fields(each)]
        plain.append([type(each).__name__, *(v for name, v in values if name not in apart)])
        # A prediction that is missing has length 0, since an array has no None.
        arrays += [np.zeros(0) if v is None else v for name, v in values if name in apart]
    np.savez_compressed(
        path,
        # Sets of units are written as sorted lists: equal rows, equal files.
        plain=np.frombuffer(json.dumps(plain, default=sorted).encode(), np.uint8),
        sizes=np.array([len(array) for array in arrays]),
        arrays=np.concatenate(arrays).astype(np.float32),
    )


def read_rows(path: Path) -> tuple[list[Row], list[HeldOut], list[NamedSet]]:
    """Return what `write_rows` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of rows.
    """
    try:
        # A file may come from elsewhere, and a pickle runs code.
        with np.load(path, allow_pickle=False) as file:
            plain: list[list[Any]] = json.loads(file["plain"].tobytes())
            ends = np.cumsum(file["sizes"])[:-1]
            arrays = iter(np.split(file["arrays"].astype(np.float64), ends))
    except (KeyError, zipfile.BadZipFile, ValueError) as error:
        message = f"{path} is no file of rows that `lingshu evaluate` wrote: {error}"
        raise ValueError(message) from error
    rows: list[Row] = []
    held_out: list[HeldOut] = []
    sets: list[NamedSet] = []
    for each in plain:
        kind, values = each[0], each[1:]
        if kind == Row.__name__:
            rows.append(Row(*values, draws=next(arrays)))
        elif kind == HeldOut.__name__:
            predicted, observed, noise = (next(arrays) for _ in range(3))
            known = predicted if len(predicted) else None
            held_out.append(HeldOut(*values, predicted=known, observed=observed, noise=noise))
        else:
            units = frozenset((population, unit) for population, unit in values.pop())
            sets.append(NamedSet(*values, units=units))
    return rows, held_out, sets

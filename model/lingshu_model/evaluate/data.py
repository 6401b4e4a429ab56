"""Real cells read from an h5ad file, over a checkpoint's panel and split by a held-out field.

Knows nothing of models; the only module here that reads AnnData.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.evaluate.observed import CONTROL, Observed
from lingshu_model.train import data as training
from lingshu_model.train.spec import TrainingSpec
from lingshu_model.wire import Checkpoint

DEFAULT = Path("../shared/data/cells/papalexi2021_thp1_crisprko.h5ad")


@dataclass(frozen=True)
class Split:
    """Which cells are held out, and where the perturbation is written.

    Attributes:
        field: obs column that decides.
        value: its value in held-out cells; all other cells were trained on.
        label: obs column with the perturbation.
        control: its value in control cells.
    """

    field: str = "bio_rep"
    value: str = "rep_3"
    label: str = "perturbation"
    control: str = "non-targeting"


def load_observed(path: Path, panel: Sequence[str], split: Split) -> Observed:
    """Return the training and held-out cells of every condition that has both.

    Raises:
        ValueError: the file lacks a panel gene, an obs column or the control; what it has is named.
    """
    data = anndata.read_h5ad(path)
    labels, fields = (_column(data, path, name) for name in (split.label, split.field))
    counts = _counts(data, path, panel)
    held_out = fields == split.value
    shared = sorted(set(labels[held_out]) & set(labels[~held_out]))
    if split.control not in shared:
        message = (
            f"{path.name} has no {split.label} {split.control!r} on both sides of "
            f"{split.field} = {split.value!r}; it has {', '.join(shared[:8]) or 'nothing there'}"
        )
        raise ValueError(message)
    names = {label: CONTROL if label == split.control else label for label in shared}
    train, test = (
        {name: counts[side & (labels == label)] for label, name in names.items()}
        for side in (~held_out, held_out)
    )
    return Observed(list(panel), train, test)


def load_validation(path: Path, checkpoint: Checkpoint) -> Observed:
    """Return the cells a checkpoint was trained on and its validation slice, which chose settings.

    Raises:
        ValueError: the training data are not where `path` is, or no slice was kept out.
    """
    spec = TrainingSpec.model_validate(checkpoint.config["training"])
    if not spec.validation:
        message = f"{checkpoint.name} kept no validation slice; use --held-out FIELD=VALUE"
        raise ValueError(message)
    folder = path.resolve().parents[len(Path(spec.sources[0].file).parts) - 1]
    cells = training.read_cells(spec, folder)
    names = {
        i: "+".join(each.target for each in condition.interventions) or CONTROL
        for i, condition in enumerate(cells.conditions)
    }
    parts = training.split(cells, spec)
    train, test = (
        {name: part.counts(part.rows(i)) for i, name in names.items()}
        for part in map(cells.take, (parts.train, parts.validation))
    )
    return Observed(list(cells.panel), train, test)


def _column(data: anndata.AnnData, path: Path, name: str) -> NDArray[np.str_]:
    if name not in data.obs:
        known = ", ".join(map(str, data.obs.columns))
        message = f"{path.name} has no obs column {name!r}; it has {known}"
        raise ValueError(message)
    return data.obs[name].to_numpy().astype(str)


def _counts(data: anndata.AnnData, path: Path, panel: Sequence[str]) -> NDArray[np.int32]:
    missing = [gene for gene in panel if gene not in data.var_names]
    if missing:
        message = (
            f"{path.name} does not measure {len(missing)} panel genes, {', '.join(missing[:5])}: "
            "evaluate on a file that measures the whole panel"
        )
        raise ValueError(message)
    chosen = data[:, list(panel)].X
    dense = chosen.toarray() if sparse.issparse(chosen) else np.asarray(chosen)  # pyright: ignore
    return dense.astype(np.int32)

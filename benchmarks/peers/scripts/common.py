"""What every peer's script shares: the stage it reads, the cells it leaves, and its clock.

Runs in the peers' own environments, so it imports numpy, scipy, pandas and anndata alone. The stage
holds `train.h5ad`, `validation.h5ad` and `wanted.json`; held-out cells are not in it.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy import sparse

CONTROL = "control"


@dataclass(frozen=True)
class Wanted:
    """One condition of which cells are wanted: what it is and how many."""

    condition: str
    cell_type: str
    dataset: str
    perturbation: str
    n_cells: int


@dataclass
class Work:
    """One run of one peer with one seed, and what it took."""

    stage: Path
    out: Path
    seed: int
    options: argparse.Namespace
    notes: dict[str, Any] = field(default_factory=dict)

    def wanted(self) -> list[Wanted]:
        """Return the conditions of which cells are wanted."""
        wanted = json.loads((self.stage / "wanted.json").read_text("utf-8"))
        return [Wanted(condition=name, **each) for name, each in wanted.items()]

    def cells(self) -> anndata.AnnData:
        """Return training and validation cells in this order; obs `validation` tells them apart."""
        parts = {False: self._read("train"), True: self._read("validation")}
        for validation, part in parts.items():
            part.obs["validation"] = validation
        whole = anndata.concat(parts.values(), merge="same", index_unique="-")
        whole.X = sparse.csr_matrix(whole.X, dtype=np.float32)
        return whole

    def generator(self, wanted: Wanted) -> np.random.Generator:
        """Return the draws of a condition: the same for all of one data set and cell type.

        Both arms of a change then start from the same control cells, row by row, as the model's
        do, and the choice of cells is no noise in what a peer says of a perturbation.
        """
        return np.random.default_rng([self.seed, *f"{wanted.dataset}/{wanted.cell_type}".encode()])

    def leave(self, folder: str, condition: str, values: Any) -> None:
        """Write one condition's cells [cells, panel]: counts where integer, else log1p_cp10k."""
        path = self.out / folder / f"seed-{self.seed}"
        path.mkdir(parents=True, exist_ok=True)
        if np.issubdtype(np.asarray(values).dtype, np.integer):
            rows = sparse.csr_matrix(values)
            arrays = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
            np.savez(path / f"{condition}.npz", shape=rows.shape, **arrays)
        else:
            np.savez(path / f"{condition}.npz", log1p_cp10k=np.asarray(values, np.float32))

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Note the seconds of what runs within; the processor's too, children included."""
        started, used = time.perf_counter(), sum(os.times()[:4])
        yield
        spent = time.perf_counter() - started
        for key, value in ((name, spent), (f"{name}_of_processor", sum(os.times()[:4]) - used)):
            self.notes[key] = self.notes.get(key, 0.0) + value

    def finish(self, folders: list[str], *packages: str) -> None:
        """Write the notes beside the cells: seconds, settings, versions."""
        self.notes["versions"] = {name: version(name) for name in packages}
        self.notes["python"] = platform.python_version()
        self.notes["options"] = {k: v for k, v in vars(self.options).items() if k not in _PATHS}
        for folder in folders:
            path = self.out / folder / f"seed-{self.seed}" / "notes.json"
            path.write_text(json.dumps(self.notes, indent=1, sort_keys=True) + "\n", "utf-8")

    def _read(self, name: str) -> anndata.AnnData:
        return anndata.read_h5ad(self.stage / f"{name}.h5ad")


_PATHS = ("stage", "out", "scratch")


def begin(**defaults: Any) -> Work:
    """Return the work that the command line asks for; a peer's options are its defaults' names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    return Work(options.stage, options.out, options.seed, options)


def templates(obs: Any, wanted: Wanted, *, control: bool = False) -> np.ndarray:
    """Return the rows of training cells from which a condition's cells are made.

    Those of the condition itself; where it has none, or with `control`, the control cells of its
    data set and cell type. Validation cells are none.
    """
    trained = ~obs["validation"].to_numpy(bool)
    alike = trained & (obs["dataset"] == wanted.dataset).to_numpy()
    alike &= (obs["cell_type"] == wanted.cell_type).to_numpy()
    for perturbation in (CONTROL,) if control else (wanted.perturbation, CONTROL):
        rows = np.flatnonzero(alike & (obs["perturbation"] == perturbation).to_numpy())
        if len(rows):
            return rows
    message = f"{wanted.condition!r}: no training cell of {wanted.cell_type} in {wanted.dataset}"
    raise ValueError(message)


def log1p_cp10k(counts: Any) -> sparse.csr_matrix:
    """Return ln(1 + count / cell total × 10,000), float32 CSR."""
    counts = sparse.csr_matrix(counts, dtype=np.float64)
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    scaled = sparse.diags(1e4 / totals) @ counts
    scaled.data = np.log1p(scaled.data)
    return scaled.astype(np.float32).tocsr()

"""Populations: training and held-out cells of a data set or donor, and the cells sampled of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks.mixed_populations.judging import Labels
from benchmarks.mixed_populations.sets import ATLASES, PBMC, Atlas, written_split
from lingshu_model.contracts import ArmRequest, Catalogue, Checkpoint
from lingshu_model.sampling.load import load_sampler
from lingshu_model.sampling.sampler import sample_arm
from lingshu_model.train.__main__ import main as train
from lingshu_model.train.data.cells import TrainingCells
from lingshu_model.train.data.sources import read_cells, split
from lingshu_model.train.spec import TrainingSpec
from lingshu_tools.experiments.contexts.populations import resolve_population

SPEC = Path(__file__).parents[2] / "model" / "presets" / "pbmc.json"


@dataclass(frozen=True)
class Cells:
    """Counts over the genes that the population measures [cells, genes], and a type of each."""

    counts: sparse.csr_matrix
    types: Labels


@dataclass(frozen=True)
class Population:
    """A population to be judged.

    Attributes:
        name: of it.
        context: the fields that are named; the others are left out.
        checkpoint: that samples it.
        types: the context field of cell types.
        train: cells of training and validation.
        held_out: cells that neither has.
        subtypes: finer labels of training and of held-out cells, which the checkpoint never had;
            None = there are none.
    """

    name: str
    context: dict[str, str]
    checkpoint: Checkpoint
    types: str
    train: Cells
    held_out: Cells
    subtypes: tuple[Labels, Labels] | None = None

    def sampled(self, seed: int, folder: Path) -> Cells:
        """Return as many sampled cells as are held out, stored in `folder` for the next run."""
        digest = self.checkpoint.digest[7:19]
        file = folder / f"{self.name}-{digest}-{seed}.npz"
        arm = self._arm(seed)
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            cells = sample_arm(load_sampler(self.checkpoint), arm)
            kept = sparse.csr_matrix(cells.counts[:, cells.measured])
            sparse.save_npz(file, kept)
        number = arm.context_numbers(0, arm.n_cells)
        types = np.array([context[self.types] for context in arm.contexts])
        return Cells(sparse.csr_matrix(sparse.load_npz(file)), types[number])

    def _arm(self, seed: int) -> ArmRequest:
        context, mixture = resolve_population(self.checkpoint, self.context, ())
        chosen = self.checkpoint.config["sampler"]
        return ArmRequest(
            checkpoint=self.checkpoint.name,
            checkpoint_digest=self.checkpoint.digest,
            context=context,
            mixture=mixture.parts if mixture else (),
            seed=seed,
            n_cells=len(self.held_out.types),
            steps=chosen["steps"],
            guidance=chosen["guidance"],
        )


def pbmc(data: Path) -> Iterator[Population]:
    """Yield the control cells of the data sets of the shipped checkpoint."""
    spec = TrainingSpec.read(SPEC)
    cells, checkpoint = read_cells(spec, data), Catalogue().load("pbmc")
    parts = split(cells, spec)
    fine = _as_labelled(spec, data)
    known = np.sort(np.concatenate([parts.train, parts.validation]))
    for name in PBMC:
        context = {"dataset": name}
        both = [_chosen(cells.take(rows), context, "cell_type") for rows in (known, parts.test)]
        # The same cells in the same order, under the labels of the file.
        first, second = (_chosen(fine.take(rows), context, "cell_type").types
                         for rows in (known, parts.test))  # fmt: skip
        several = len(np.unique(first)) > len(np.unique(both[0].types))
        subtypes = (first, second) if several else None
        yield Population(name, context, checkpoint, "cell_type", *both, subtypes)


def _as_labelled(spec: TrainingSpec, data: Path) -> TrainingCells:
    """Return the cells of a specification under the labels that the files have."""
    sources = [
        source.model_copy(
            update={
                "rename": {
                    f: {label: label for label in names} for f, names in source.rename.items()
                }
            }
        )
        for source in spec.sources
    ]
    return read_cells(spec.model_copy(update={"sources": sources, "unseen": []}), data)


def atlas(name: str, data: Path, out: Path, minutes: float) -> Iterator[Population]:
    """Yield the populations of a file, after a checkpoint was trained on a part of its cells."""
    this = ATLASES[name]
    files = written_split(this, data, out / name)
    checkpoint = trained(name, this, files[0], out, minutes)
    spec = TrainingSpec.read(out / "runs" / name / "spec.json")
    known, held_out = (_read(spec, file) for file in files)
    fields = [field for field in this.context if field != this.types]
    values = sorted({dict(c.context)[fields[0]] for c in known.conditions}) if fields else [""]
    for value in values:
        context = {fields[0]: value} if fields else {}
        both = [_chosen(part, context, this.types) for part in (known, held_out)]
        label = f"{name}-{value}" if value else name
        yield Population(label, context, checkpoint, this.types, *both)


def trained(name: str, atlas: Atlas, file: Path, out: Path, minutes: float) -> Checkpoint:
    """Return the checkpoint that `lingshu train FILE` makes; a second call goes on or is done."""
    runs = out / "runs"
    words = [str(file), "--name", name, *atlas.options, "--minutes", f"{minutes:g}", "--yes"]
    for field in atlas.context:
        words += ["--context", field]
    if not (runs / name / "checkpoint" / f"{name}.digests.json").exists():
        # The command `lingshu train`, in this process.
        train.main([*words, "--out", str(runs)], standalone_mode=False)
    return Catalogue([runs / name / "checkpoint"]).load(name)


def _read(spec: TrainingSpec, file: Path) -> TrainingCells:
    sources = [spec.sources[0].model_copy(update={"file": file.name})]
    return read_cells(spec.model_copy(update={"sources": sources}), file.parent)


def _chosen(cells: TrainingCells, context: dict[str, str], types: str) -> Cells:
    """Return the unperturbed cells of a context, over the genes that they measure."""
    conditions = [dict(c.context) for c in cells.conditions]
    fitting = [
        i
        for i, c in enumerate(cells.conditions)
        if not c.interventions and context.items() <= conditions[i].items()
    ]
    part = cells.take(np.flatnonzero(np.isin(cells.condition, fitting)))
    measured = cells.measured[np.unique(part.source)].all(axis=0)
    # Whole numbers: floats would be taken for levels.
    umi = sparse.csr_matrix(part.umi(np.int32))[:, measured]
    return Cells(umi, np.array([conditions[i][types] for i in part.condition.tolist()]))


def all_populations(
    names: Sequence[str], data: Path, out: Path, minutes: float
) -> Iterator[tuple[str, Population]]:
    """Yield the name of each set with each of its populations."""
    for name in names:
        each_set = pbmc(data) if name == "pbmc" else atlas(name, data, out, minutes)
        yield from ((name, each) for each in each_set)

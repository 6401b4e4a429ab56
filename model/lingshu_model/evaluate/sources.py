"""Predicted cells: those of the model and of its peers, one set per sampling seed.

A peer's folder holds one folder per seed (`seed-0`, `seed-1` …) with a file per condition over the
checkpoint's panel, named as `lingshu_model.train.split` names conditions (or as the tables do):
`CONDITION.safetensors`, counts as `contracts.cells.encode_cells` writes them, or
`CONDITION.log1p.safetensors`, `log1p_cp10k` float32 [cells, genes], of a model without counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.numpy import load

from lingshu_model.contracts import decode_cells
from lingshu_model.evaluate.metrics.changes import Change, change_between, paired_change
from lingshu_model.evaluate.metrics.matrices import Sparse, csr, expression_levels
from lingshu_model.evaluate.study import Contrast, Population
from lingshu_model.train.data.cells import Condition
from lingshu_model.train.split import condition_name

COUNTS, EXPRESSION = ".safetensors", ".log1p.safetensors"
ENOUGH = 0.9
"""Share of the model's cells that a peer needs. All sources are cut to the one with fewest, and the
model's figures are to be those of the number of cells that was given."""


@dataclass(frozen=True)
class Source:
    """Predicted cells.

    Attributes:
        seeds: sampling seeds.
        arms: per seed, CSR [cells, genes] by condition; integers are UMI, floats log1p_cp10k.
        paired: whether row i of both arms of a contrast shares a random stream.
    """

    seeds: Sequence[int]
    arms: Sequence[Mapping[str, Sparse]]
    paired: bool = False

    def has(self, condition: str) -> bool:
        """Return whether every seed has cells of a condition."""
        return all(condition in arms for arms in self.arms)

    def change(self, position: int, contrast: Contrast, population: Population) -> Change:
        """Return the change of a contrast with the seed at a position.

        Arms of one size are compared row by row, as paired ones are: what both have in common from
        starting at the same cells is no noise of the change. A source that draws no control cells
        is compared with the training control cells.
        """
        arms = self.arms[position]
        perturbed = arms[contrast.perturbed]
        control = arms.get(contrast.control)
        if control is None:
            control = population.train[contrast.control]
        # The noise of paired differences is right for unrelated rows of one size too.
        paired = self.paired or perturbed.shape[0] == control.shape[0]
        between = paired_change if paired else change_between
        return between(expression_levels(perturbed), expression_levels(control))


Sources = Mapping[str, Source]


def in_population(sources: Sources, population: Population) -> dict[str, Source]:
    """Return the cells of a population's conditions over its genes.

    Every source has as many cells of a condition as the one that has fewest.
    """
    cut = {name: [population.cut(arms) for arms in s.arms] for name, s in sources.items()}
    sizes: dict[str, int] = {}
    for arms in (arms for seeds in cut.values() for arms in seeds):
        for name, cells in arms.items():
            sizes[name] = min(cells.shape[0], sizes.get(name, cells.shape[0]))
    return {
        name: replace(s, arms=[{n: c[: sizes[n]] for n, c in arms.items()} for arms in cut[name]])
        for name, s in sources.items()
    }


def read_peers(
    folders: Mapping[str, Path],
    conditions: Mapping[str, Condition],
    sizes: Mapping[str, int],
    genes: int,
) -> dict[str, Source]:
    """Return the peers' cells of the conditions that are evaluated.

    Args:
        folders: by the peer's name.
        conditions: by name.
        sizes: cells that the model samples of each condition; a peer's further ones are left out.
        genes: of the panel.

    Raises:
        ValueError: a folder holds no seed, seeds hold different conditions, none of the conditions
            is there, cells are over another panel, or there are too few.
    """
    # Both names are looked for: that of the tables and that of training's files.
    files = {name: {name, condition_name(conditions[name])} for name in sizes}
    return {name: _read(name, path, files, sizes, genes) for name, path in folders.items()}


def _read(
    name: str, folder: Path, files: Mapping[str, set[str]], sizes: Mapping[str, int], genes: int
) -> Source:
    folders = sorted(path for path in folder.glob("*") if path.is_dir())
    seeds = [_files(seed, files) for seed in folders]
    if not seeds or not seeds[0] or any(each.keys() != seeds[0].keys() for each in seeds):
        counted = ", ".join(str(len(each)) for each in seeds)
        expected = ", ".join(sorted(min(each) for each in files.values())[:5])
        message = (
            f"{name}: {folder} has {counted or 'no'} known conditions in its seed folders; "
            f"expected the same in every seed, among {expected} …"
        )
        raise ValueError(message)
    arms = [{c: _cells(path, sizes[c], genes) for c, path in each.items()} for each in seeds]
    return Source([*range(len(arms))], arms)


def _files(seed: Path, files: Mapping[str, set[str]]) -> dict[str, Path]:
    """Return the file of each condition in a seed's folder, counts where there are both."""
    paths = {
        condition: path
        for condition, names in files.items()
        # The later one replaces the earlier: counts, where a peer has both.
        for suffix in (EXPRESSION, COUNTS)
        for name in names
        if (path := seed / f"{name}{suffix}").is_file()
    }
    return dict(sorted(paths.items()))


def _cells(path: Path, n: int, genes: int) -> Sparse:
    blob = path.read_bytes()
    has_counts = not path.name.endswith(EXPRESSION)
    cells = decode_cells(blob).counts if has_counts else load(blob)["log1p_cp10k"]
    if cells.shape[1] != genes:
        message = f"{path} has {cells.shape[1]} genes; the panel has {genes}"
        raise ValueError(message)
    if len(cells) < ENOUGH * n:
        message = f"{path} has {len(cells)} cells; the model samples {n}: lower --n-cells"
        raise ValueError(message)
    return csr(cells[:n])

"""Whether the disk has room for the cells that are asked for, as far as can be told beforehand."""

from __future__ import annotations

import shutil
from pathlib import Path

from lingshu_model.contracts import Checkpoint, CheckpointError
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.designs import Design
from lingshu_tools.experiments.workspace import Workspace

# Position and value of a stored count, 4 bytes each.
BYTES_PER_COUNT = 8
COPIES = 3
"""An experiment's cells at the worst moment: the engine's, those on their way, and the objects."""
# Left for the ledger, logs and other programs.
SPARE = 64 << 20


def require_free_space(
    workspace: Workspace, design: Design, *, stored_cells: int | None = None
) -> None:
    """Refuse an experiment whose cells will not fit on the disk of the home.

    Args:
        workspace: where it would be kept.
        design: the experiment, or one of equal ones.
        stored_cells: cells kept in the end; those of the one experiment by default.

    Raises:
        InputError: what is needed, what is free and what to do.
    """
    # Copies on the way are of one experiment at a time, stored cells are of all.
    kept = design.total_cells if stored_cells is None else stored_cells
    cells = kept + (COPIES - 1) * design.total_cells
    free = shutil.disk_usage(_existing(workspace.home)).free - SPARE
    # The bound for dense cells needs no file of the checkpoint; most calls end here.
    if cells * len(design.checkpoint.panel) * BYTES_PER_COUNT <= free:
        return
    needed = int(cells * counts_per_cell(design.checkpoint) * BYTES_PER_COUNT)
    if needed > free:
        message = (
            f"n_cells={design.n_cells}: {kept:,} cells need about {_gb(needed)} on the disk of "
            f"{workspace.home} while they are made, and {_gb(max(free, 0))} are free. Free some "
            "space, ask for fewer cells, or set LINGSHU_HOME to a folder on another disk."
        )
        raise InputError(message)


def counts_per_cell(checkpoint: Checkpoint) -> float:
    """Return how many genes of a cell are not zero, in the fullest condition it was trained on.

    0 where the checkpoint does not say: nothing is refused for what is not known.
    """
    try:
        # The fullest condition is an upper bound for every other.
        zero_rate = checkpoint.reference["zero_rate"].min()
    except (CheckpointError, KeyError):
        return 0.0
    return float(1 - zero_rate) * len(checkpoint.panel)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes < 1e10 else f"{n_bytes / 1e9:.0f} GB"

"""A user's file read in a child process: what is asked for, and what comes back.

A file that has not changed is read once: equal requests share the answer. Its size, times and inode
are part of the request, so that a file that was changed is read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu_model.contracts import Checkpoint, Intervention, digest_json
from lingshu_model.contracts.user_cells import FOLDER
from lingshu_tools.calls.waiting import wait_until_over
from lingshu_tools.children import Answer, State, Task
from lingshu_tools.errors import InputError
from lingshu_tools.experiments.roots import Roots
from lingshu_tools.system.deadline import GRACE_S, remaining

if TYPE_CHECKING:
    from lingshu_tools.app import App

_MARGIN_S = 0.5
"""Seconds of a call that are kept for beginning the experiment after the file was read."""


_LISTS = ("renamed", "ambiguous", "missing")


@dataclass(frozen=True)
class Request:
    """Which cells of which file, for which checkpoint.

    Attributes:
        file: as the caller names it.
        where: obs column to the label of the cells.
        n_cells: at most.
        seed: of the choice where more fit.
        counts: the matrix of raw counts; None = found by its values.
        interventions: whose effect is carried to the cells; none = no effect.
    """

    file: str
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    n_cells: int = 256
    seed: int = 0
    counts: str | None = None
    interventions: Sequence[Intervention] = ()


@dataclass(frozen=True)
class ReadCells:
    """Cells that were read, stored in the home under their digests.

    Attributes:
        path: of the file, links resolved.
        request: what was asked for.
        report: of the child: digests, numbers of cells, genes, nearest contexts.
    """

    path: Path
    request: Request
    report: Mapping[str, Any]

    @property
    def n_cells(self) -> int:
        """Number of cells that were chosen."""
        return int(self.report["n_cells"])

    @property
    def label(self) -> str:
        """The cells in a few words: the file's name and the begin of the digest of the cells."""
        return f"{self.path.name} {self.report['cells'].removeprefix('sha256:')[:12]}"

    @property
    def record(self) -> dict[str, Any]:
        """What a ledger row keeps, so that the cells can be had again and checked."""
        genes = self.report["genes"]
        nearest = next(iter(self.report["nearest"]), None)
        return {
            "digest": self.report["cells"],
            "effect": self.report["effect"],
            "file": str(self.path),
            "file_digest": self.report["file_digest"],
            "where": dict(self.request.where),
            "most": self.request.n_cells,
            "seed": self.request.seed,
            "counts": self.report["counts"],
            "genes": {**{name: len(genes[name]) for name in _LISTS}, "matched": genes["matched"]},
            "share": round(float(self.report["share"]), 3),
            "nearest": None if nearest is None else _rounded(nearest),
        }


def read(app: App, checkpoint: Checkpoint, request: Request) -> ReadCells | State:
    """Return the cells of a file, or how far the child is after what the call may wait.

    The child goes on when the call returns: an equal call later finds its answer.

    Raises:
        InputError: the file is outside the allowed folders, or cannot be used; the text says why.
        ChildError: the child failed.
    """
    roots = Roots(app.home)
    path = roots.allowed(request.file)
    job = _job(path, roots.folders(), checkpoint, request)
    children = app.children
    task = Task("cells", digest_json(job), job, folder=app.home.absolute() / FOLDER)
    work = children.begin(task)
    if not isinstance(work, Answer):
        wait_until_over(work.watch, max(remaining(60.0) - GRACE_S + _MARGIN_S, 0.05))
    answer = children.result(work)
    if not isinstance(answer, Answer):
        return answer
    if answer.details["status"] == "error":
        children.forget(task)
        raise InputError(str(answer.details["summary"]))
    return ReadCells(path, request, answer.details)


def _job(
    path: Path, folders: Sequence[Path], checkpoint: Checkpoint, request: Request
) -> dict[str, Any]:
    status = path.stat()
    # The time of change cannot be set back: a file that was written to is another request.
    stat = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return {
        "path": str(path),
        "stat": list(stat),
        "folders": [str(folder.resolve()) for folder in folders],
        "checkpoint": str(checkpoint.path.absolute()),
        "checkpoint_digest": checkpoint.digest,
        "selection": {
            "where": dict(request.where),
            "n_cells": request.n_cells,
            "seed": request.seed,
            "counts": request.counts,
        },
        "interventions": [
            json.loads(i.model_dump_json(exclude_none=True)) for i in request.interventions
        ],
    }


def _rounded(nearest: Mapping[str, Any]) -> dict[str, Any]:
    return {"context": dict(nearest["context"]), "pearson": round(float(nearest["pearson"]), 2)}

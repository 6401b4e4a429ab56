"""Inspecting and training from Python, in a child process that may load what this one must not.

Cells in memory are written to a private folder for the child, which is removed afterwards.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lingshu_model.system.launcher import RANK_VARIABLES
from lingshu_tools.errors import InputError, LingshuError
from lingshu_tools.system.interpreter import PIPE, Process, start
from lingshu_tools.training.plain_copy import write_plain

OPTIONS = ("perturbation", "control", "context", "kind", "replicate", "dose", "time", "counts",
           "gene_names", "separator")  # fmt: skip
_UNFIT = 3
_IN_MEMORY = "the AnnData"
_TAIL = 30


class Cells(Protocol):
    """What AnnData has: cells that can be written to a file."""

    def write_h5ad(self, filename: Any) -> object:
        """Write the cells to a file."""
        ...


@dataclass(frozen=True)
class Inspection:
    """What cells hold, and how they would be trained on.

    Attributes:
        lines: the same for people.
        problems: what a person should know: `problem`, `remedy` and `fatal`.
        details: every field of `lingshu data inspect --json`.
    """

    lines: tuple[str, ...]
    problems: tuple[Mapping[str, Any], ...]
    details: Mapping[str, Any]

    @property
    def trainable(self) -> bool:
        """Whether nothing keeps the cells from being trained on."""
        return not any(problem["fatal"] for problem in self.problems)

    def __str__(self) -> str:
        notes = [f"{p['problem']}. {p['remedy']}" for p in self.problems]
        return "\n".join([*self.lines, *notes])


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Attributes:
        name: of the checkpoint.
        folder: of the run; `Lab.train` has added its checkpoint to the home.
        unfit: whether some conditions do not deliver their effect.
        report: what the training printed.
    """

    name: str
    folder: Path
    unfit: bool
    report: str


def inspect(cells: Cells | Path | str, **options: Any) -> Inspection:
    """Return what cells hold.

    Args:
        cells: an AnnData, or the path of an h5ad file.
        **options: those of `lingshu data inspect`: `perturbation`, `control`, `context` …

    Raises:
        InputError: the cells cannot be read, or what is said does not fit them.
    """
    with _file_of(cells, "cells") as path:
        line = ["-m", "lingshu_model.train.inspect", str(path), "--json", *arguments(options)]
        child = _started(line)
        out, errors = (_named(text, cells, path) for text in child.communicate())
    try:
        fields: dict[str, Any] = json.loads(out)
    except ValueError:
        message = f"the inspection ended with status {child.returncode}: {_tail(errors)}"
        raise LingshuError(message) from None
    if fields["status"] == "error":
        raise InputError(fields["summary"])
    if not isinstance(cells, Path | str):
        # A command needs a file, which the user has not written yet.
        fields["next_step"] = fields["next_step"].replace(_IN_MEMORY, "FILE.h5ad")
    return Inspection(tuple(fields["lines"]), tuple(fields["problems"]), fields)


def train(
    cells: Cells | Path | str,
    *,
    name: str,
    out: Path | str = "runs",
    recipe: str = "default",
    epochs: int | None = None,
    minutes: float | None = None,
    allow_unfit: bool = False,
    **options: Any,
) -> Trained:
    """Return a checkpoint trained on cells; the same call goes on with what was trained before.

    Args:
        cells: an AnnData, or the path of an h5ad file.
        name: of the checkpoint: small letters, digits and hyphens.
        out: the folder of all runs.
        recipe: `default`, `effects` for no network, or `paper` for the paper's.
        epochs: instead of as many as fit.
        minutes: of training that the epochs are to fit in.
        allow_unfit: whether conditions that do not deliver their effect are accepted.
        **options: those of `lingshu data inspect`.

    Raises:
        InputError: the cells cannot be trained on.
        LingshuError: the training failed.
    """
    said: dict[str, Any] = {"name": name, "out": out, "recipe": recipe, "epochs": epochs}
    line = ["--yes", *(("--allow-unfit",) if allow_unfit else ())]
    for option, value in {**said, "minutes": minutes}.items():
        line += [f"--{option}", str(value)] if value is not None else []
    with _file_of(cells, name) as path:
        whole = ["-m", "lingshu_model.train", str(path), *line, *arguments(options)]
        child = _started(whole)
        printed, errors = (_named(text, cells, path) for text in child.communicate())
    if child.returncode not in (0, _UNFIT):
        raise (
            InputError(_tail(errors))
            if child.returncode in (1, 2)
            else LingshuError(f"the training ended with status {child.returncode}: {_tail(errors)}")
        )
    report = errors.decode("utf-8", "replace") + printed.decode("utf-8", "replace")
    return Trained(name, Path(out) / name, child.returncode == _UNFIT, report)


def _started(line: Sequence[str]) -> Process[bytes]:
    """Return a child that is one process, whatever launcher's variables are around."""
    environ = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return start(line, environ=environ, stdout=PIPE, stderr=PIPE)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as a command line's.

    Raises:
        InputError: one of them is none.
    """
    line: list[str] = []
    for name, value in options.items():
        if name not in OPTIONS:
            message = f"there is no option {name!r}; there are {', '.join(OPTIONS)}"
            raise InputError(message)
        for each in _values(value):
            line += [f"--{name.replace('_', '-')}", each]
    return line


def _values(value: Any) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return [f"{name}={text}" for name, text in value.items()]
    return [value] if isinstance(value, str) else [str(each) for each in value]


@contextmanager
def _file_of(cells: Cells | Path | str, name: str) -> Generator[Path]:
    if isinstance(cells, Path | str):
        yield Path(cells)
        return
    folder = Path(tempfile.mkdtemp(prefix=f"lingshu-{secrets.token_hex(4)}-"))
    try:
        # The same name each time: the file's name is part of what a run is.
        write_plain(cells, folder / f"{name}.h5ad")
        yield folder / f"{name}.h5ad"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _named(text: bytes, cells: Cells | Path | str, path: Path) -> bytes:
    """Return what a child printed with the user's word for cells that had no file."""
    return text if isinstance(cells, Path | str) else text.replace(bytes(path), _IN_MEMORY.encode())


def _tail(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return "\n".join(lines[-_TAIL:]).removeprefix("lingshu train: ") or "it printed nothing"

"""What a child is asked to do, and the files through which it and its parent know of each other.

A child outlives the process that started it: its task, its lock, its messages and its answer are
files below `HOME/children/`, so that any process can find out how it stands.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lingshu_model.contracts import digest_json
from lingshu_model.system.durable import UNFINISHED, write_durably

Kind = Literal["plot", "export", "table", "cells", "enrich"]
LIMIT_S: Mapping[Kind, float] = {
    "plot": 600.0,
    "export": 3600.0,
    "table": 3600.0,
    "cells": 600.0,
    "enrich": 600.0,
}
"""Seconds after which a child is killed: a busy machine may need minutes to load a library."""


def key_of(kind: Kind, request: str) -> str:
    """Return the name of a task's files: readable, and different for different requests."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", request)[:60]
    return f"{kind}-{readable}-{digest_json([kind, request])[7:15]}"


BUSY = 75
"""Exit status where another child works at the same task (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True)
class Task:
    """A piece of work for a child.

    Attributes:
        kind: the module `lingshu_tools.children.KIND` that does it.
        request: what the caller asked for, in a form that stays the same from call to call. Calls
            with one request share one child while it is at work.
        job: what the module gets.
        folder: where its files are put.
        facts: what the caller wants to know of when the work was begun; kept beside the answer.
    """

    kind: Kind
    request: str
    job: Mapping[str, Any]
    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def digest(self) -> str:
        """What tells the results of different jobs apart."""
        return digest_json([self.kind, self.job, str(self.folder)])


@dataclass(frozen=True)
class Answer:
    """What a child made.

    Attributes:
        digest: of the task.
        details: what its module returned.
        files: name to path, size and time of change (ns): a file that was changed or removed since
            is noticed by them.
        digests: sha256 of each file.
        facts: those of the task.
        finished_at: seconds since 1970.
        delivered: whether a caller has seen it.
    """

    digest: str
    details: Mapping[str, Any]
    files: Mapping[str, tuple[str, int, int]]
    digests: Mapping[str, str]
    facts: Mapping[str, Any]
    finished_at: float
    delivered: bool = False

    @property
    def paths(self) -> dict[str, Path]:
        """The files that were made, by name."""
        return {name: Path(path) for name, (path, _, _) in self.files.items()}

    @property
    def intact(self) -> bool:
        """Whether the files are there as the child left them."""
        for path, size, changed in self.files.values():
            try:
                status = os.lstat(path)
            except OSError:
                return False
            if (status.st_size, status.st_mtime_ns) != (size, changed):
                return False
        return True


@dataclass(frozen=True)
class TaskFiles:
    """Where a task's files are."""

    folder: Path
    key: str

    @property
    def task(self) -> Path:
        """The task as JSON, which the child reads."""
        return self.folder / f"{self.key}.task"

    @property
    def lock(self) -> Path:
        """Held by the child as long as it lives."""
        return self.folder / f"{self.key}.lock"

    @property
    def log(self) -> Path:
        """All that the child wrote to stdout and stderr."""
        return self.folder / f"{self.key}.log"

    @property
    def answer(self) -> Path:
        """The answer as JSON, written when the files are in place."""
        return self.folder / f"{self.key}.answer"

    @property
    def prefix(self) -> str:
        """How the name of a folder of unfinished files begins."""
        return f"{UNFINISHED}{self.key}-"

    def read_answer(self) -> Answer | None:
        """Return the answer, or None where there is none that can be read."""
        with suppress(OSError, ValueError, TypeError):
            return Answer(**json.loads(self.answer.read_bytes()))
        return None

    def write_answer(self, answer: Answer) -> None:
        """Put an answer in place of an earlier one."""
        write_durably(self.answer, json.dumps(asdict(answer)).encode())

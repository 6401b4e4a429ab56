"""Outcomes that the database would not take: kept as durable files until it does.

`spool/exp_….json` is one outcome row and what it refers to, after a line with its digest: what was
damaged while it waited is never recorded.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lingshu_model.system.durable import write_durably
from lingshu_model.system.private import private_folder
from lingshu_tools.errors import LedgerError
from lingshu_tools.ledger.canonical import canonical_json, digest_bytes


class Spool:
    """A folder of outcomes that wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, experiment_id: str, document: Mapping[str, Any]) -> Path:
        """Return the file that now holds the outcome.

        Raises:
            LedgerError: the disk takes nothing at all.
        """
        path = self._path(experiment_id)
        try:
            text = canonical_json(document)
            private_folder(self._folder)
            write_durably(path, digest_bytes(text).encode() + b"\n", text)
        except OSError as error:
            message = (
                f"the outcome of {experiment_id} could not even be kept in {path}: {error}; free "
                "some space and attempt it again"
            )
            raise LedgerError(message) from error
        return path

    def get(self, experiment_id: str) -> dict[str, Any] | None:
        """Return the outcome that waits for an experiment; None where none can be read whole."""
        try:
            digest, _, text = self._path(experiment_id).read_bytes().partition(b"\n")
        except OSError:
            return None
        return json.loads(text) if digest == digest_bytes(text).encode() else None

    def drop(self, experiment_id: str) -> None:
        """Forget an outcome that has arrived; one that cannot be removed comes too late."""
        with suppress(OSError):
            self._path(experiment_id).unlink(missing_ok=True)

    def waiting(self) -> Iterator[str]:
        """Yield the experiments whose outcomes wait."""
        for path in sorted(self._folder.glob("exp_*.json")):
            yield path.stem

    def _path(self, experiment_id: str) -> Path:
        return self._folder / f"{experiment_id}.json"

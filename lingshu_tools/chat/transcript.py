"""What was said in a chat, one JSON line each, with the head of the ledger at the time."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from lingshu_model.system.private import open_private, private_folder
from lingshu_model.system.redaction import redactor


class Transcript:
    """A file that only its owner can read; secrets are replaced in what is written.

    Attributes:
        path: of the file; None if nothing is saved.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file = None
        if path is not None:
            private_folder(path.parent)
            # O_EXCL: an existing file or link of that name is not written to.
            descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")

    @classmethod
    def in_home(cls, home: Path) -> Self:
        """Return a new transcript in the folder `chats` of a home."""
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls(home / "chats" / f"chat-{moment}-{secrets.token_hex(3)}.jsonl")

    def write(self, kind: str, **fields: Any) -> None:
        """Add a line; it is in the file when this returns."""
        if self._file is None:
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = _redacted({"time": moment, "kind": kind, **fields}, redactor())
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        # A chat that is killed keeps what was said.
        self._file.flush()

    def close(self) -> None:
        """Close the file; what is written afterwards is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _redacted(value: Any, redact: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate cannot be written as UTF-8.
        return redact(value.encode("utf-8", "replace").decode("utf-8"))
    if isinstance(value, Mapping):
        return {redact(str(k)): _redacted(v, redact) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, redact) for item in value]
    return value

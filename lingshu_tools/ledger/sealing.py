"""How an attempt begins and how it ends, as rows: the one seal, and what it refers to.

Each function runs in a transaction that somebody else opened.
"""

import json
import os
import platform
import socket
import sqlite3
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import Connection

from lingshu_model.system.file_locks import boot_id
from lingshu_model.system.redaction import redact
from lingshu_tools.errors import SealedError
from lingshu_tools.ledger import schema
from lingshu_tools.ledger.canonical import digest_bytes
from lingshu_tools.ledger.chain import append, has
from lingshu_tools.ledger.rows import new_id, now, text_of


def start(connection: Connection, experiment_id: str, server_id: str) -> str | None:
    """Return the id of a new attempt; None where the experiment was to stop and is sealed so.

    Raises:
        SealedError: it has its outcome already.
    """
    if has(connection, schema.outcome, experiment_id=experiment_id):
        message = f"{experiment_id} is sealed: its outcome never changes; read it, or replay it"
        raise SealedError(message)
    if has(connection, schema.cancellation, experiment_id=experiment_id):
        seal(connection, ending(experiment_id, None, kind="cancelled"))
        return None
    if not has(connection, schema.server, id=server_id):
        _introduce(connection, server_id)
    row = append(
        connection,
        schema.attempt,
        id=new_id("att"),
        experiment_id=experiment_id,
        server_id=server_id,
        created_at=now(),
    )
    return row["id"]


def _introduce(connection: Connection, server_id: str) -> None:
    versions = {
        "lingshu-tools": _version(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    append(
        connection,
        schema.server,
        id=server_id,
        pid=os.getpid(),
        host=socket.gethostname(),
        boot=boot_id(),
        versions=text_of(versions),
        created_at=now(),
    )


def ending(
    experiment_id: str,
    attempt_id: str | None,
    *,
    kind: str,
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
    environment: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Return all that an outcome's rows will say, as JSON values: what is sealed or spooled.

    `artifacts` is role to digest, `sizes` the bytes that each digest stands for.
    """
    return {
        "outcome": {
            "experiment_id": experiment_id,
            "attempt_id": attempt_id,
            "kind": kind,
            "result": None if result is None else text_of(result),
            # For ever, and in every export.
            "error": error and redact(error),
            "artifacts": text_of(artifacts or {}),
            "seconds": None if seconds is None else float(seconds),
            "created_at": now(),
        },
        "environment": environment and json.loads(text_of(environment)),
        "sizes": dict(sizes or {}),
    }


def seal(connection: Connection, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome row that `ending` described.

    Raises:
        SealedError: the experiment has one already.
    """
    values = document["outcome"]
    if has(connection, schema.outcome, experiment_id=values["experiment_id"]):
        message = f"{values['experiment_id']} was sealed by another attempt; read its outcome"
        raise SealedError(message)
    for digest, size in sorted(document["sizes"].items()):
        if not has(connection, schema.artifact, digest=digest):
            append(connection, schema.artifact, digest=digest, size=size, created_at=now())
    digest = record_environment(connection, document["environment"])
    return append(connection, schema.outcome, **values, environment_digest=digest)


def record_environment(connection: Connection, document: Mapping[str, Any] | None) -> str | None:
    """Return the digest of an environment, which is in the ledger from now on; None for None."""
    if document is None:
        return None
    text = text_of(document)
    digest = digest_bytes(text.encode())
    if not has(connection, schema.environment, digest=digest):
        append(connection, schema.environment, digest=digest, document=text, created_at=now())
    return digest


def _version() -> str:
    try:
        return version("lingshu-tools")
    except PackageNotFoundError:
        return "not installed"

"""Tokens of the HTTP server: who may call it, what each may use at a time, and revocation.

The home holds `http-token`, the token of its owner, for the clients that the owner configures, and
`http-tokens.json`, with a hash of every other token: who adds one sees it once. Both are read
again when they change, so that a running server takes in what was added or revoked.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lingshu_model.system.durable import write_durably
from lingshu_model.system.file_locks import wait_for_lock
from lingshu_model.system.private import check_closed, open_private, private_folder
from lingshu_tools.errors import InputError, NotFoundError, did_you_mean

OWNER: Final = "local"
"""The principal of the home's owner, and the name of the owner's token."""
PREFIX: Final = "lingshu_"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHORTEST = 32
_LOCK_S = 5.0
V = TypeVar("V")


class Token(BaseModel):
    """One token: its name is the principal of the experiments begun with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str = Field(description="SHA-256 of the token, in hexadecimal")
    created_at: str
    max_calls: int | None = Field(description="Calls in flight at a time; null: no limit")
    max_cells: int | None = Field(description="Cells queued or at work at a time; null: no limit")


class AccessTokens:
    """The tokens of one home; safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        """Prepare; nothing is read or written yet."""
        self.owner_file = home / "http-token"
        self._file = home / "http-tokens.json"
        self._owner = _Watched(self.owner_file, _read_owner)
        self._named = _Watched(self._file, _read_named)

    def ensure_owner(self) -> Path:
        """Return the file with the owner's token, made where there is none.

        Raises:
            InputError: it is open to others, or holds no token.
        """
        private_folder(self.owner_file.parent)
        with wait_for_lock(self._lock, timeout_s=_LOCK_S):
            if not self._owner.get():
                write_durably(self.owner_file, f"{_new_token()}\n".encode())
        return self.owner_file

    def add(self, name: str, *, max_calls: int | None, max_cells: int | None) -> str:
        """Return a new token, which is stored nowhere.

        Raises:
            InputError: the name is taken, or is none.
        """
        if name == OWNER or not _NAME.fullmatch(name):
            message = (
                f"{name!r} cannot name a token: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
                f"beginning with a letter or digit, and not {OWNER!r}, which is the home's owner"
            )
            raise InputError(message)
        value = _new_token()

        def added(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            if name in [token.name for token in tokens]:
                message = (
                    f"there is a token {name!r} already; `lingshu serve tokens revoke {name}` "
                    "makes room for a new one of the same principal"
                )
                raise InputError(message)
            token = Token(
                name=name,
                digest=_digest(value),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                max_calls=max_calls,
                max_cells=max_cells,
            )
            return (*tokens, token)

        self._change(added)
        return value

    def revoke(self, name: str) -> None:
        """Take a token away; servers that run refuse it from their next request on.

        Raises:
            NotFoundError: there is none of this name.
        """
        if name == OWNER and self.owner_file.exists():
            self.owner_file.unlink()
            return

        def left(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            names = [token.name for token in tokens]
            if name not in names:
                near = did_you_mean(name, names)
                message = f"there is no token {name!r}.{near} `lingshu serve tokens list` shows all"
                raise NotFoundError(message)
            return tuple(token for token in tokens if token.name != name)

        self._change(left)

    def all(self) -> list[Token]:
        """Return every token, the owner's first."""
        return [*self._owner.get(), *self._named.get()]

    def find(self, value: str) -> Token | None:
        """Return the token that has this value; None where none has.

        Every digest is compared, each in constant time.
        """
        digest, match = _digest(value), None
        for token in self.all():
            if hmac.compare_digest(token.digest, digest):
                match = token
        return match

    @property
    def _lock(self) -> Path:
        return self._file.with_suffix(".lock")

    def _change(self, work: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        private_folder(self._file.parent)
        with wait_for_lock(self._lock, timeout_s=_LOCK_S):
            tokens = [token.model_dump() for token in work(self._named.get())]
            write_durably(self._file, json.dumps({"tokens": tokens}, indent=1).encode())


class _Watched(Generic[V]):
    """What a file says, read again when the file is another one."""

    def __init__(self, path: Path, read: Callable[[Path], tuple[V, ...]]) -> None:
        self._path, self._read = path, read
        self._seen: tuple[tuple[int, ...] | None, tuple[V, ...]] = (None, ())

    def get(self) -> tuple[V, ...]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return ()
        mark = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if self._seen[0] != mark:
            self._seen = (mark, self._read(self._path))
        return self._seen[1]


def _read_owner(path: Path) -> tuple[Token, ...]:
    value = _read_private(path).strip()
    if len(value) < _SHORTEST:
        message = (
            f"{path} holds no token of at least {_SHORTEST} characters: delete it, and the next "
            "`lingshu serve --http` makes a new one"
        )
        raise InputError(message)
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return (
        Token(name=OWNER, digest=_digest(value), created_at=at, max_calls=None, max_cells=None),
    )


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...]


def _read_named(path: Path) -> tuple[Token, ...]:
    try:
        return _Named.model_validate_json(_read_private(path)).tokens
    except ValidationError as error:
        where = "; ".join(".".join(map(str, e["loc"])) or e["msg"] for e in error.errors())
        message = f"{path} is damaged ({where}): delete it and add the tokens again"
        raise InputError(message) from None


def _read_private(path: Path) -> str:
    """Return a file's text.

    Raises:
        InputError: others than its owner may read it.
    """
    try:
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
            check_closed(path, os.fstat(file.fileno()))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        message = f"{error}: the tokens of the HTTP server cannot be read"
        raise InputError(message) from error


def _new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()

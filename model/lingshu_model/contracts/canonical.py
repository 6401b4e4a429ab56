"""Canonical JSON and the digests made of it: one text per value, so equal values hash equally.

Rules (published in `docs/file-format.md`): keys sorted by code point, no spaces, UTF-8, non-ASCII
written as itself, floats by Python's shortest round-trip representation and never rounded, `-0.0`
written `0.0`, NaN and infinities and lone surrogates refused. An integer and the float equal to it
are different values.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HASH_PREFIX = "sha256:"


def canonical_json(value: Any) -> bytes:
    """Return the one UTF-8 text of a JSON value.

    Raises:
        ValueError: NaN, an infinity, a lone surrogate or a type that JSON lacks; the path to it is
            in the message.
    """
    text = json.dumps(
        _normal(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode("utf-8")


def digest_json(value: Any) -> str:
    """Return `sha256:` and the hex digest of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_bytes(data: bytes) -> str:
    """Return `sha256:` and the hex digest of `data`."""
    return HASH_PREFIX + hashlib.sha256(data).hexdigest()


def digest_pieces(pieces: Iterable[bytes]) -> str:
    """Return `sha256:` and the hex digest of pieces of bytes, joined."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return HASH_PREFIX + digest.hexdigest()


def digest_file(path: Path) -> str:
    """Return `sha256:` and the hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return HASH_PREFIX + hashlib.file_digest(handle, "sha256").hexdigest()


def _normal(value: Any, path: str) -> Any:
    # Integers stay integers: 1 and 1.0 are written differently, and so hash differently.
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            message = f"{path} is {value!r}: canonical JSON holds finite numbers only"
            raise ValueError(message)
        return value + 0.0  # -0.0 becomes 0.0
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, Mapping):
        return {_key(k, path): _normal(v, f"{path}.{k}") for k, v in value.items()}
    # bytes are a Sequence of int: without this they would pass as a list of numbers.
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_normal(v, f"{path}[{i}]") for i, v in enumerate(value)]
    message = f"{path} is a {type(value).__name__}: canonical JSON holds JSON values only"
    raise ValueError(message)


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        message = f"{path} has the key {key!r}: keys are text"
        raise ValueError(message)
    return _text(key, path)


def _text(text: str, path: str) -> str:
    # json.dumps writes a lone surrogate as it is; only the encoding to UTF-8 would fail, without a
    # path.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{path} holds a lone surrogate at position {error.start}"
        raise ValueError(message) from error
    return text

"""Tokens of the HTTP server: stored as hashes, private, and read again when they change."""

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from lingshu_tools.errors import InputError, NotFoundError
from lingshu_tools.system.access_tokens import AccessTokens

NO_LIMITS = {"max_calls": None, "max_cells": None}


def test_the_owners_token_is_made_once_and_lies_in_a_private_file(tmp_path: Path):
    home = tmp_path / "home"
    file = AccessTokens(home).ensure_owner()
    value = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert AccessTokens(home).ensure_owner().read_text().strip() == value
    result = AccessTokens(home).find(value)
    assert result
    assert result.name == "local"


def test_tokens_are_known_by_their_value_alone_and_stored_as_hashes(tmp_path: Path):
    tokens = AccessTokens(tmp_path)
    alice = tokens.add("alice", max_calls=3, max_cells=100)
    bob = tokens.add("bob", **NO_LIMITS)
    assert alice != bob
    result = tokens.find(alice)
    assert result
    assert (result.name, result.max_calls, result.max_cells) == ("alice", 3, 100)
    for value in ("", "alice", alice[:-1], alice + "x", result.digest, "\udc80"):
        assert tokens.find(value) is None
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert alice.encode() not in stored
    assert bob.encode() not in stored


def test_another_process_adds_and_revokes_while_one_looks(tmp_path: Path):
    looking, changing = AccessTokens(tmp_path), AccessTokens(tmp_path)
    looking.ensure_owner()
    value = changing.add("alice", **NO_LIMITS)
    assert looking.find(value)
    changing.revoke("alice")
    assert looking.find(value) is None
    owner = changing.owner_file.read_text().strip()
    assert looking.find(owner)
    changing.revoke("local")
    assert looking.find(owner) is None
    assert looking.ensure_owner().read_text().strip() != owner


def test_tokens_added_at_the_same_time_are_all_there(tmp_path: Path):
    def add(number: int) -> None:
        AccessTokens(tmp_path).add(f"token-{number}", **NO_LIMITS)

    threads = [Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {t.name for t in AccessTokens(tmp_path).all()} == {f"token-{n}" for n in range(8)}


@pytest.mark.parametrize("name", ["", "local", "Alice", "a b", "-a", "a" * 65, "é", "../x"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="cannot name a token"):
        AccessTokens(tmp_path).add(name, **NO_LIMITS)


def test_a_name_is_given_once_and_an_unknown_one_is_not_revoked(tmp_path: Path):
    tokens = AccessTokens(tmp_path)
    tokens.add("alice", **NO_LIMITS)
    with pytest.raises(InputError, match="revoke alice"):
        tokens.add("alice", **NO_LIMITS)
    with pytest.raises(NotFoundError, match="alice"):
        tokens.revoke("alise")


@pytest.mark.parametrize("name", ["http-token", "http-tokens.json"])
def test_a_file_of_tokens_that_others_can_read_or_that_is_a_link_is_refused(
    tmp_path: Path, name: str
):
    tokens = AccessTokens(tmp_path)
    tokens.ensure_owner()
    tokens.add("alice", **NO_LIMITS)
    os.chmod(tmp_path / name, 0o644)  # noqa: PTH101
    with pytest.raises(InputError, match="chmod 0600"):
        AccessTokens(tmp_path).all()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    os.chmod(tmp_path / "elsewhere", 0o600)  # noqa: PTH101
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        AccessTokens(tmp_path).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [("http-tokens.json", "{"), ("http-tokens.json", '{"tokens": [{}]}'), ("http-token", "x\n")],
)
def test_a_damaged_file_of_tokens_lets_nobody_in_and_says_what_to_do(
    tmp_path: Path, name: str, content: str
):
    (tmp_path / name).touch(0o600)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="delete it"):
        AccessTokens(tmp_path).find("x")

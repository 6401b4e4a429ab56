"""The entry of this server in a client's settings, and the settings with it put in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from lingshu_tools.errors import InputError, quoted
from lingshu_tools.install import json_text, toml_text
from lingshu_tools.install.clients import Client
from lingshu_tools.install.server_command import Server

_STARTUP_S = {False: 30, True: 300}
"""Seconds that Codex waits for a server to start (10 by default), which may have to install."""


def entry(client: Client, server: Server) -> dict[str, Any]:
    """Return what a client's settings say of a server."""
    values: dict[str, Any] = {"type": "stdio"} if client.typed else {}
    values |= {"command": server.command, "args": server.args}
    if client.form == "toml":
        values["startup_timeout_sec"] = _STARTUP_S[server.slow_start]
    if server.env:
        values["env"] = server.env
    return values


def printed(client: Client, name: str, server: Server) -> str:
    """Return a text to be put into an empty settings file of a client."""
    values = entry(client, server)
    if client.form == "toml":
        return toml_text.with_value("", (client.key, name), values)
    return json.dumps({client.key: {name: values}}, indent=2, ensure_ascii=False) + "\n"


def with_entry(text: str, client: Client, name: str, server: Server) -> str:
    """Return a client's settings with the entry of this server, the same text if it is there.

    Of an entry that is there already, keys of others are kept, and so are its comments.

    Raises:
        InputError: the text cannot be read or changed safely; the reason is given.
    """
    before = _parse(text, client)
    servers = before.get(client.key, {})
    if not isinstance(servers, dict):
        message = f"{client.key} is {quoted(servers)}, and a table of servers is needed"
        raise InputError(message)
    present = servers.get(name)
    values = entry(client, server)
    if present is not None:
        _require_stdio(present, client, name)
    # What the changed text must parse to. Whatever the editing of text does, it is compared.
    expected = deepcopy(before)
    _merge(expected, {client.key: {name: values}})
    # Nothing to change: the file is not touched, and no copy is made.
    if expected == before:
        return text
    reasons: list[str] = []
    # The change that leaves most of the text alone is tried first.
    for changes in _changes((client.key, name), present, values, expected):
        try:
            changed = text
            for path, value in changes:
                changed = _with(changed, client, path, value)
            if _parse(changed, client) == expected:
                return changed
        except InputError as error:
            reasons.append(str(error))
    reason = reasons[0] if reasons else f"{client.key} is written in a form that is not changed"
    message = f"{reason}; put in what --print shows by hand"
    raise InputError(message)


Path = tuple[str, ...]


def _changes(
    path: Path, present: Any, values: dict[str, Any], expected: dict[str, Any]
) -> Iterator[list[tuple[Path, Any]]]:
    """Yield lists of single changes that lead to what is expected, the smallest first."""
    if present is None:
        yield [(path, values)]
        return
    changes: list[tuple[Path, Any]] = []
    whole: list[tuple[Path, Any]] = []
    for key, value in values.items():
        old = present.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            changes += [((*path, key, k), v) for k, v in value.items() if old.get(k) != v]
            whole.append(((*path, key), expected[path[0]][path[1]][key]))
        elif old != value:
            changes.append(((*path, key), value))
            whole.append(((*path, key), value))
    yield changes
    # A table on one line is replaced by one with the same keys and ours.
    yield whole


def _require_stdio(present: Any, client: Client, name: str) -> None:
    # An entry that connects to an address is somebody's choice, not an old version of ours.
    kind = present.get("type", "stdio") if isinstance(present, dict) else None
    if kind != "stdio" or "url" in present or "httpUrl" in present:
        message = (
            f"{client.key}.{name} is there already and is not a command: "
            "choose another name with --name, or remove it"
        )
        raise InputError(message)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _parse(text: str, client: Client) -> dict[str, Any]:
    if client.form == "toml":
        return toml_text.parse(text)
    return json_text.parse(text, comments=client.form == "jsonc")


def _with(text: str, client: Client, path: Path, value: Any) -> str:
    if client.form == "toml":
        return toml_text.with_value(text, path, value)
    return json_text.with_member(text, path, value, comments=client.form == "jsonc")

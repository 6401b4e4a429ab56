"""Settings of clients as texts: our entry goes in, and every other character stays."""

import json
import re
import tomllib
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lingshu_tools.errors import InputError
from lingshu_tools.install import CLIENTS, Client, Server, find_client, printed, with_entry
from lingshu_tools.install.json_text import parse

SERVER = Server("/opt/my lab/bin/lingshu-mcp", ["--tools", "core"], {"LINGSHU_HOME": "/data/é"})
JSONC = [c for c in CLIENTS if c.form == "jsonc"]
JSON = [c for c in CLIENTS if c.form == "json"]
CODEX = find_client("codex")
GAPS = st.sampled_from(["", " ", "\n", "\r\n  ", "/* a, {b} */", ' // "c": 1,\n', "\t/**/"])
KEYS = st.sampled_from(["mcpServers", "servers", "lingshu", "a", 'q"/*', "//", "é", "command", ""])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.just("// no */ {")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def commented(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON with comments and trailing commas in arbitrary places."""

    def gap() -> str:
        return draw(GAPS)

    if isinstance(value, dict | list):
        items = (
            [f"{json.dumps(k)}{gap()}:{gap()}{draw(commented(v))}" for k, v in value.items()]
            if isinstance(value, dict)
            else [draw(commented(v)) for v in value]
        )
        body = f"{gap()},{gap()}".join(items)
        trailing = f"{gap()}," if items and draw(st.booleans()) else ""
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return f"{opening}{gap()}{body}{trailing}{gap()}{closing}"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def settings(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    value = draw(st.dictionaries(KEYS, VALUES, max_size=4))
    for key in ("mcpServers", "servers"):
        if not isinstance(value.get(key, {}), dict):
            value[key] = {"other": value[key]}
    text = f"{draw(GAPS)}{draw(commented(value))}{draw(GAPS)}"
    return value, text


def left_over(text: str, part: str) -> bool:
    """Whether the characters of `part` are all in `text`, in their order."""
    rest = iter(text)
    return all(character in rest for character in part)


@hypothesis_settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(settings(), st.sampled_from(JSONC))
def test_json_with_comments_keeps_every_character_and_gains_the_entry(
    pair: tuple[dict[str, Any], str], client: Client
):
    value, text = pair
    assert parse(text, comments=True) == value
    assume("lingshu" not in value.get(client.key, {}))
    changed = with_entry(text, client, "lingshu", SERVER)
    expected = deepcopy(value)
    expected.setdefault(client.key, {})["lingshu"] = parse(
        printed(client, "lingshu", SERVER), comments=False
    )[client.key]["lingshu"]
    assert parse(changed, comments=True) == expected
    # The order of all that was there too: comments are not moved behind what they are about.
    assert left_over(changed, text)
    assert with_entry(changed, client, "lingshu", SERVER) == changed


COMMENTED = """\
{
    // where the lab's servers are
    "servers": {
        "other": { "command": "x", }, // keep me
        "lingshu": {
            "type": "stdio",
            /* the old place */
            "command": "/old/lingshu-mcp",
            "args": [],
            "env": { "MINE": "1" },
            "dev": { "watch": true },
        },
    },
}
"""


def test_an_entry_that_is_there_keeps_its_other_keys_and_comments():
    vscode = find_client("vscode")
    changed = with_entry(COMMENTED, vscode, "lingshu", SERVER)
    entry = parse(changed, comments=True)["servers"]["lingshu"]
    assert entry["command"] == SERVER.command
    assert entry["args"] == SERVER.args
    assert entry["env"] == {"MINE": "1", **SERVER.env}
    assert entry["dev"] == {"watch": True}
    for comment in ("// where the lab's servers are", "// keep me", "/* the old place */"):
        assert comment in changed


def test_the_indentation_and_line_ends_of_a_file_are_taken_up():
    text = '{\r\n\t"mcpServers": {\r\n\t\t"a": {"command": "b"}\r\n\t}\r\n}\r\n'
    changed = with_entry(text, find_client("claude-code"), "lingshu", SERVER)
    assert '\r\n\t\t"lingshu": {\r\n\t\t\t"type": "stdio",\r\n' in changed
    assert not re.search(r"[^\r]\n", changed)
    assert changed.endswith("\r\n\t}\r\n}\r\n")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.name)
@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_file_gets_a_whole_text(client: Client, text: str):
    changed = with_entry(text, client, "lingshu", SERVER)
    values = tomllib.loads(changed) if client.form == "toml" else json.loads(changed)
    assert values[client.key]["lingshu"]["command"] == SERVER.command


MALFORMED = [
    '{"mcpServers": {',
    '{"a": 1,, "b": 2}',
    "[]",
    "null",
    '{"a": NaN}',
    '{"a": 1} {"b": 2}',
    '{"a": "\x01"}',
    '{"mcpServers": [], "servers": []}',
    '{"mcpServers": "x", "servers": 3}',
    '{"mcpServers": {"lingshu": 5}, "servers": {"lingshu": 5}}',
    '{"mcpServers": {"lingshu": {"url": "http://x"}}, "servers": {"lingshu": {"url": "http://x"}}}',
    '{"mcpServers": {"lingshu": {"type": "http"}}, "servers": {"lingshu": {"type": "http"}}}',
    '{"mcpServers": {}, "mcpServers": {}, "servers": {}, "servers": {}}',
    "{'mcpServers': {}}",
    "[" * 100_000,
]


@pytest.mark.parametrize("client", [*JSON, *JSONC], ids=lambda c: c.name)
@pytest.mark.parametrize("text", MALFORMED, ids=lambda t: t[:40])
def test_what_cannot_be_read_or_changed_safely_is_refused(client: Client, text: str):
    with pytest.raises(InputError):
        with_entry(text, client, "lingshu", SERVER)


@pytest.mark.parametrize("client", JSON, ids=lambda c: c.name)
@pytest.mark.parametrize("text", ["{} // c", '{"a": 1,}', "/* c */ {}"])
def test_comments_are_refused_where_the_client_does_not_read_them(client: Client, text: str):
    with pytest.raises(InputError):
        with_entry(text, client, "lingshu", SERVER)


TOML = [
    "",
    'model = "o"\n',
    'model = "o" # no end of line',
    '# first\n[mcp_servers.other]\ncommand = "x" # keep\n\n[p.a]\nb = """\n[no table]\n"""\n',
    "[mcp_servers]\n# none yet\n",
    'mcp_servers.other.command = "x"\n',
    '[mcp_servers.lingshu]\ncommand = "/old"\nargs = [\n  "a", # one\n]\nenabled = true\n',
    '[mcp_servers.lingshu]\ncommand = "/old"\nenv = { MINE = "1" }\n[tui]\nx = 1\n',
    '[mcp_servers.lingshu]\nenv = { MINE = "1", TOO = "2" }\ncommand = "/old"\n',
    '[mcp_servers.lingshu]\ncommand = "/old"\n[mcp_servers.lingshu.env] # mine\nMINE = "1"\n',
    '[mcp_servers."lingshu"]\ncommand = \'/old\'\nenv.MINE = "1"\r\n[[x.y]]\na = 1\n[[x.y]]\n',
    '[mcp_servers.lingshu.tools."a.b"]\napproval = "never"\n',
    '# one\u2028two\u0085three\nmodel = "a\u2029b" # four\u2028five\n[mcp_servers.other]\nx = 1\n',
    '# one\u2028two\r\n[mcp_servers.lingshu]\r\ncommand = """\r\na\u2028[b]"""\r\n',
]


@pytest.mark.parametrize("text", TOML, ids=range(len(TOML)))
def test_toml_gains_the_entry_and_keeps_the_rest(text: str):
    before = tomllib.loads(text)
    changed = with_entry(text, CODEX, "lingshu", SERVER)
    after = tomllib.loads(changed)
    entry = after["mcp_servers"].pop("lingshu")
    assert entry["command"] == SERVER.command
    assert entry["args"] == SERVER.args
    old = before.get("mcp_servers", {}).pop("lingshu", {})
    assert entry["env"] == {**old.get("env", {}), **SERVER.env}
    kept = {k: v for k, v in old.items() if k not in ("command", "args", "env")}
    assert kept.items() <= entry.items()
    assert after.get("mcp_servers") == before.get("mcp_servers", {})
    assert {k: v for k, v in after.items() if k != "mcp_servers"} == {
        k: v for k, v in before.items() if k != "mcp_servers"
    }
    comments = re.findall(r"# (?!one)\w.*", text)
    assert all(comment in changed for comment in comments)
    assert with_entry(changed, CODEX, "lingshu", SERVER) == changed


@pytest.mark.parametrize(
    "text",
    [
        "model = ",
        "[a\n",
        "a = 1\na = 2\n",
        "mcp_servers = 3\n",
        "mcp_servers = { other = { command = 'x' } }\n",
        "mcp_servers = { lingshu = { command = 'x' } }\n",
        "[mcp_servers.lingshu]\nurl = 'http://x'\n",
        "[[mcp_servers]]\na = 1\n",
    ],
)
def test_toml_that_cannot_be_changed_safely_is_refused(text: str):
    with pytest.raises(InputError):
        with_entry(text, CODEX, "lingshu", SERVER)

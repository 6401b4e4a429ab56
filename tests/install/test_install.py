"""`lingshu install`: the files of clients in an empty home, in a full one, and under attack."""

import json
import os
import stat
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lingshu_tools.cli import main
from lingshu_tools.errors import InputError
from lingshu_tools.install import CLIENTS, Client, SettingsFile, find_client, this_server

FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
}
NAMES = list(FILES)
PROJECTS = [client.name for client in CLIENTS if client.project_file]


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of a person on Linux."""
    home = tmp_path / "person"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("XDG_CONFIG_HOME", "CODEX_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LINGSHU_HOME", "LINGSHU_CHECKPOINTS", "LINGSHU_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    return home


def install(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["install", *arguments], input=stdin)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def entry(client: Client, text: str, name: str = "lingshu") -> dict[str, object]:
    values = tomllib.loads(text) if client.form == "toml" else json.loads(text)
    return values[client.key][name]


@pytest.mark.parametrize("name", NAMES)
def test_each_client_is_connected_in_an_empty_home(person: Path, name: str):
    ran = install(name, "--yes", "--home", str(person / "lab"))
    assert ran.exit_code == 0, ran.output
    assert list(files(person)) == [FILES[name]]
    written = entry(find_client(name), (person / FILES[name]).read_text("utf-8"))
    assert Path(str(written["command"])).is_absolute()
    assert os.access(str(written["command"]), os.X_OK)
    assert written["env"] == {"LINGSHU_HOME": str(person / "lab")}
    assert stat.S_IMODE((person / FILES[name]).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_what_is_written_and_printing_writes_nothing(person: Path, name: str):
    ran = install(name, "--print")
    assert ran.exit_code == 0
    assert files(person) == {}
    install(name, "--yes")
    assert (person / FILES[name]).read_text("utf-8") == ran.stdout


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_gets_a_file_that_others_can_read(person: Path, name: str):
    project = person / "project"
    project.mkdir()
    assert install(name, "--yes", "--project", str(project)).exit_code == 0
    place = find_client(name).project_file
    assert list(files(project)) == [place]
    assert stat.S_IMODE((project / str(place)).stat().st_mode) == 0o644


def test_claude_desktop_has_no_file_in_projects(person: Path):
    ran = install("claude-desktop", "--yes", "--project", str(person))
    assert ran.exit_code == 1
    assert "--project" in ran.output


@pytest.mark.parametrize(
    ("name", "variable", "file"),
    [
        ("codex", "CODEX_HOME", "config.toml"),
        ("claude-code", "CLAUDE_CONFIG_DIR", ".claude.json"),
        ("vscode", "XDG_CONFIG_HOME", "Code/User/mcp.json"),
    ],
)
def test_a_clients_own_variable_names_the_folder(
    person: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, file: str
):
    monkeypatch.setenv(variable, str(person / "else where"))
    assert install(name, "--yes").exit_code == 0
    assert list(files(person)) == [f"else where/{file}"]


def test_macs_keep_settings_in_the_library(person: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    base, path = find_client("claude-desktop").file(None)
    assert path.relative_to(base).as_posix() == (
        "Library/Application Support/Claude/claude_desktop_config.json"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_there_is_kept_beside_the_new_one(person: Path, name: str):
    path = person / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = "[tui] # c\nx = 1\n" if name == "codex" else '"n": 12345678901234567890'
    text = kept if name == "codex" else f"{{{kept}}}"
    path.write_text(text, "utf-8")
    path.chmod(0o640)
    ran = install(name, "--yes")
    assert ran.exit_code == 0, ran.output
    [copy] = [p for p in path.parent.iterdir() if ".before-lingshu-" in p.name]
    assert copy.read_text("utf-8") == text
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    new = path.read_text("utf-8")
    assert kept in new
    # The second time there is nothing to do, and no second copy.
    again = install(name, "--yes")
    assert again.exit_code == 0
    assert "nothing was written" in again.output
    assert path.read_text("utf-8") == new
    assert len([p for p in path.parent.iterdir() if "before" in p.name]) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[1", b"\x00"], ids=repr)
def test_a_malformed_file_is_named_and_nothing_is_written(person: Path, name: str, content: bytes):
    path = person / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    ran = install(name, "--yes")
    assert ran.exit_code == 1
    assert str(path) in " ".join(ran.output.split())
    assert files(person) == {FILES[name]: content}


def test_nothing_is_written_without_an_answer(person: Path):
    ran = install("cursor")
    assert ran.exit_code == 1
    assert "--yes" in ran.output
    assert install("cursor", "--json").exit_code == 1
    assert files(person) == {}


def test_a_person_at_a_terminal_is_asked(person: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lingshu_tools.cli.install_command.sys", _AtTerminal())
    assert install("cursor", stdin="n\n").exit_code == 1
    assert files(person) == {}
    assert install("cursor", stdin="y\n").exit_code == 0
    assert list(files(person)) == [FILES["cursor"]]


class _AtTerminal:
    class stdin:  # noqa: N801 - as sys has it
        @staticmethod
        def isatty() -> bool:
            return True


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_links_are_not_followed_at_any_place_of_the_path(person: Path, name: str):
    parts = Path(FILES[name]).parts
    for depth in range(len(parts)):
        home = person / f"home-{depth}"
        target = person / f"target-{depth}"
        link = home.joinpath(*parts[: depth + 1])
        link.parent.mkdir(parents=True)
        if depth == len(parts) - 1:
            target.write_text("" if name == "codex" else "{}", "utf-8")
        else:
            target.mkdir()
        link.symlink_to(target)
        before = files(person)
        ran = CliRunner(env={"HOME": str(home)}).invoke(main, ["install", name, "--yes"])
        assert ran.exit_code == 1
        assert "symbolic link" in ran.output
        assert files(person) == before


def test_a_fifo_in_the_place_of_the_file_does_not_hold_the_command(person: Path):
    (person / ".cursor").mkdir()
    os.mkfifo(person / ".cursor/mcp.json")
    ran = install("cursor", "--yes")
    assert ran.exit_code == 1
    assert "not a regular file" in ran.output


def test_a_change_by_another_program_meanwhile_is_not_lost(person: Path):
    path = person / ".claude.json"
    path.write_text("{}", "utf-8")
    file = SettingsFile.read(person, path, shared=False)
    path.write_text('{"new": 1}', "utf-8")
    with pytest.raises(InputError, match="changed by another program"):
        file.replace('{"mcpServers": {}}')
    assert files(person) == {".claude.json": b'{"new": 1}'}


def test_a_write_that_fails_leaves_the_old_file(person: Path, monkeypatch: pytest.MonkeyPatch):
    path = person / ".claude.json"
    path.write_text('{"old": 1}', "utf-8")

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    ran = install("claude-code", "--yes")
    assert ran.exit_code == 1
    assert "No space left" in ran.output
    assert path.read_bytes() == b'{"old": 1}'


def test_a_byte_order_mark_stays(person: Path):
    path = person / ".claude.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert install("claude-code", "--yes").exit_code == 0
    assert path.read_bytes().startswith(b'\xef\xbb\xbf{"a": 1,')


def test_an_environment_of_uvx_is_named_by_its_requirement(
    person: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "prefix", str(person / ".cache/uv/archive-v0/abc"))
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/bin/{name}")
    server = this_server(home=None, core=True)
    assert server.command == "/opt/bin/uvx"
    assert server.args[0] == "--from"
    assert server.args[1].startswith("lingshu-tools[all]")
    assert server.args[2:] == ["lingshu-mcp", "--tools", "core"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="temporary environment"):
        this_server(home=None, core=False)


def test_the_ledgers_url_is_never_written(person: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LINGSHU_LEDGER", "postgresql+psycopg://me:hunter22@host/db")
    monkeypatch.setenv("LINGSHU_HOME", "some/where")
    ran = install("cursor", "--yes")
    assert "LINGSHU_LEDGER" in ran.output
    text = (person / FILES["cursor"]).read_text("utf-8")
    assert "hunter22" not in text + ran.output
    assert entry(find_client("cursor"), text)["env"] == {
        "LINGSHU_HOME": str(Path.cwd() / "some/where")
    }


@pytest.mark.parametrize("name", ["", "a b", "a.b", "$(x)", "é", "-x", "9"])
def test_a_name_that_some_client_would_not_take_is_refused(person: Path, name: str):
    assert install("cursor", "--yes", f"--name={name}").exit_code == 1
    assert files(person) == {}


def test_json_output_names_the_file_and_the_copy(person: Path):
    first = json.loads(install("cursor", "--yes", "--json").stdout)
    assert first == {
        "status": "succeeded",
        "file": str(person / FILES["cursor"]),
        "changed": True,
        "copy": None,
    }
    second = json.loads(install("cursor", "--yes", "--tools", "core", "--json").stdout)
    assert Path(second["copy"]).is_file()

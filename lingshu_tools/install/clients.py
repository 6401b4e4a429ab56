"""The clients that `lingshu install` can write for: their files, keys and formats.

Sources, read in November 2026: code.claude.com/docs/en/mcp, modelcontextprotocol.io (Claude
Desktop), cursor.com/docs/mcp, code.visualstudio.com/docs (MCP configuration reference),
geminicli.com/docs/tools/mcp-server, and Codex's config.toml reference.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lingshu_tools.errors import InputError

Format = Literal["json", "jsonc", "toml"]


@dataclass(frozen=True)
class Client:
    """One MCP client.

    Attributes:
        name: as it is given on the command line.
        title: as people know it.
        form: of its file; `jsonc` is JSON with comments and trailing commas.
        key: of the table of servers in its file.
        user_file: returns the folder that is not checked for links, and the file below it.
        project_file: below a project's folder; None where the client has no such file.
        typed: whether an entry says `"type": "stdio"`.
        reload: what makes the client read the file.
    """

    name: str
    title: str
    form: Format
    key: str
    user_file: Callable[[], tuple[Path, str]]
    project_file: str | None
    typed: bool
    reload: str

    def file(self, project: Path | None) -> tuple[Path, Path]:
        """Return the folder that the user named, and the client's file at or below it.

        Raises:
            InputError: the client has no file in projects, or none on this system.
        """
        if project is None:
            base, below = self.user_file()
            return base, base / below
        if self.project_file is None:
            message = f"{self.title} has no configuration in projects: leave --project out"
            raise InputError(message)
        # Links are resolved up to the folder that was named, and refused below it.
        base = project.expanduser().resolve()
        if not base.is_dir():
            message = f"--project {str(project)!r} is no folder: name an existing one"
            raise InputError(message)
        return base, base / self.project_file


def _below_home(variable: str, folder: str, name: str) -> Callable[[], tuple[Path, str]]:
    """Return a file's place in the folder that `variable` names, else in one in the home."""

    def place() -> tuple[Path, str]:
        named = os.environ.get(variable)
        if named:
            return Path(named).expanduser().absolute(), name
        return Path.home(), f"{folder}/{name}" if folder else name

    return place


def _in_settings(below: str) -> Callable[[], tuple[Path, str]]:
    """Return a file's place in the folder where the system keeps settings of applications."""

    def place() -> tuple[Path, str]:
        if sys.platform == "darwin":
            return Path.home(), f"Library/Application Support/{below}"
        if sys.platform.startswith("linux"):
            named = os.environ.get("XDG_CONFIG_HOME")
            # The specification has relative paths ignored.
            if named and Path(named).is_absolute():
                return Path(named), below
            return Path.home(), f".config/{below}"
        message = f"the place of {below} on {sys.platform!r} is not known: use --print"
        raise InputError(message)

    return place


CLIENTS: tuple[Client, ...] = (
    Client(
        "claude-code",
        "Claude Code",
        "json",
        "mcpServers",
        _below_home("CLAUDE_CONFIG_DIR", "", ".claude.json"),
        ".mcp.json",
        typed=True,
        reload="start Claude Code again; /mcp lists the server",
    ),
    Client(
        "claude-desktop",
        "Claude Desktop",
        "json",
        "mcpServers",
        _in_settings("Claude/claude_desktop_config.json"),
        None,
        typed=False,
        reload="quit Claude Desktop and open it again",
    ),
    Client(
        "cursor",
        "Cursor",
        "jsonc",
        "mcpServers",
        lambda: (Path.home(), ".cursor/mcp.json"),
        ".cursor/mcp.json",
        typed=True,
        reload="restart Cursor",
    ),
    Client(
        "vscode",
        "VS Code",
        "jsonc",
        "servers",
        _in_settings("Code/User/mcp.json"),
        ".vscode/mcp.json",
        typed=True,
        reload="run the command `MCP: List Servers` and start lingshu",
    ),
    Client(
        "codex",
        "Codex",
        "toml",
        "mcp_servers",
        _below_home("CODEX_HOME", ".codex", "config.toml"),
        ".codex/config.toml",
        typed=False,
        reload="start Codex again; /mcp lists the server",
    ),
    Client(
        "gemini",
        "Gemini CLI",
        "jsonc",
        "mcpServers",
        lambda: (Path.home(), ".gemini/settings.json"),
        ".gemini/settings.json",
        typed=False,
        reload="start Gemini CLI again; /mcp lists the server",
    ),
)


def find_client(name: str) -> Client:
    """Return a client by its name on the command line.

    Raises:
        InputError: there is none of this name.
    """
    for client in CLIENTS:
        if client.name == name:
            return client
    message = f"no client {name!r}; there are {', '.join(client.name for client in CLIENTS)}"
    raise InputError(message)

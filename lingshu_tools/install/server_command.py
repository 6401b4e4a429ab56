"""How a client starts this installation's MCP server: an absolute command that stays valid."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from json import loads
from pathlib import Path

from lingshu_tools.errors import InputError
from lingshu_tools.system.interpreter import interpreter

KEPT_VARIABLES = ("LINGSHU_HOME", "LINGSHU_CHECKPOINTS")
"""What a client's server needs from this shell; both are paths, and hold no secret."""
_TEMPORARY = ("archive-v", "environments-v", "builds-v")
"""How folders of environments in uv's cache begin; a later `uv cache prune` removes them."""


@dataclass(frozen=True)
class Server:
    """A command that serves MCP over stdio.

    Attributes:
        command: an absolute path.
        env: variables that the client sets for it.
        slow_start: whether it may have to install packages first.
    """

    command: str
    args: list[str] = field(default_factory=list[str])
    env: dict[str, str] = field(default_factory=dict[str, str])
    slow_start: bool = False


def this_server(*, home: Path | None, core: bool) -> Server:
    """Return how the server of this installation is started.

    Args:
        home: of the server; LINGSHU_HOME of this shell where it is None, if that is set.
        core: only the six core tools.

    Raises:
        InputError: the MCP extra is not installed, or the environment is temporary and uvx is not
            on the path.
    """
    if find_spec("mcp") is None:
        message = "the server needs 'mcp': pip install 'lingshu-tools[all]', then install again"
        raise InputError(message)
    env = {
        name: os.pathsep.join(str(Path(p).expanduser().absolute()) for p in paths.split(os.pathsep))
        for name in KEPT_VARIABLES
        if (paths := os.environ.get(name))
    }
    if home is not None:
        env["LINGSHU_HOME"] = str(home.expanduser().absolute())
    # Arguments of the server itself, whatever starts it.
    after = ["--tools", "core"] if core else []
    if _temporary(Path(sys.prefix)):
        uvx = shutil.which("uvx")
        if uvx is None:
            message = (
                f"this runs in a temporary environment ({sys.prefix}), and uvx is not on PATH: "
                "install lingshu-tools with `uv tool install` or pipx, then call it from there"
            )
            raise InputError(message)
        args = ["--from", _requirement(), "lingshu-mcp", *after]
        return Server(str(Path(uvx).absolute()), args, env, slow_start=True)
    # The script of this very environment: one on PATH may be another version's.
    script = Path(sysconfig.get_path("scripts")) / "lingshu-mcp"
    if script.is_file():
        return Server(str(script), after, env)
    # -P: nothing is imported from the folder in which the client happens to run.
    return Server(interpreter(), ["-P", "-m", "lingshu_mcp", *after], env)


def _temporary(prefix: Path) -> bool:
    # pipx run keeps its environments in the cache too.
    return any(part.startswith(_TEMPORARY) for part in prefix.parts) or (
        "pipx" in prefix.parts and ".cache" in prefix.parts
    )


def _requirement() -> str:
    """Return what uvx installs: this very version, or the file that this was installed from."""
    try:
        here = distribution("lingshu-tools")
    except PackageNotFoundError:
        return "lingshu-tools[all]"
    # PEP 610: where a package was installed from, if not by name from an index.
    origin = here.read_text("direct_url.json")
    url = loads(origin).get("url", "") if origin else ""
    source = f" @ {url}" if url.startswith("file:") else f"=={here.version}"
    return f"lingshu-tools[all]{source}"

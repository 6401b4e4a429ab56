"""Starting Python: every child process and re-exec of the product goes through this module.

A child takes no code from the working folder. It runs with `-P`, and with `PYTHONSAFEPATH` for the
processes that it starts itself (accelerate starts the ranks of an engine). The variables that are
lists of folders reach it without empty and relative entries. It is not run with `-I`, which would
also ignore the absolute entries of `PYTHONPATH` that a user set on purpose.
"""

import os
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import lingshu_model
from lingshu_tools.errors import LingshuError

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
TimeoutExpired = subprocess.TimeoutExpired
Process = subprocess.Popen
"""A started child; `Process[bytes]` in annotations."""

FOLDER_LISTS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Lists of folders, in which an empty or relative entry stands for the working folder."""
FOLDERS = ("PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE")
"""Folders that Python reads code from; a relative one lies in the working folder."""
UNFIT = ("PYTHONINSPECT", "PYTHONSTARTUP")
"""Of use at a prompt only; with the first a child would wait for input instead of ending."""


def interpreter() -> str:
    """Return the path of the running Python.

    Raises:
        LingshuError: it is embedded in another program and has no interpreter of its own.
    """
    if not sys.executable:
        message = (
            "this Python runs inside another program (sys.executable is empty), so no child "
            "process can be started; use the `lingshu` command or an ordinary interpreter"
        )
        raise LingshuError(message)
    return sys.executable


def command(*arguments: str) -> list[str]:
    """Return the command line that runs this Python on `-m MODULE …`, `-c CODE` or a script."""
    return [interpreter(), "-P", *arguments]


def environ_of(environ: Mapping[str, str] | None = None, **changes: str) -> dict[str, str]:
    """Return the environment for a child: `environ` (`os.environ`) and the changes, made safe.

    Every variable keeps its value but those that would let the working folder into the child.
    """
    given = {**(os.environ if environ is None else environ), **changes}
    if sys.flags.ignore_environment:
        # This process was started with -E or -I; a child must not read what its parent did not.
        given = {k: v for k, v in given.items() if not k.startswith("PYTHON")}
    for name in UNFIT:
        given.pop(name, None)
    for name in (*FOLDERS, *FOLDER_LISTS):
        entries = [entry for entry in given.pop(name, "").split(os.pathsep) if _is_absolute(entry)]
        if name == "PYTHONPATH":
            entries += _product_path()
        # An empty list is left out: to some programs it means the working folder.
        if entries:
            given[name] = os.pathsep.join(dict.fromkeys(entries))
    if sys.flags.no_user_site or not _is_absolute(given.get("HOME", "/")):
        given["PYTHONNOUSERSITE"] = "1"
    given["PYTHONSAFEPATH"] = "1"
    return given


def drop_working_folder() -> None:
    """Take empty and relative entries out of this process's `PATH`.

    Libraries start programs by their names (`platform` starts `uname`), and such an entry would
    let them take one of the working folder.
    """
    entries = [e for e in os.environ.get("PATH", os.defpath).split(os.pathsep) if _is_absolute(e)]
    os.environ["PATH"] = os.pathsep.join(entries) or os.defpath


def start(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    cwd: Path | None = None,
    detached: bool = False,
) -> Process[bytes]:
    """Return a child that runs this Python on `arguments`.

    Args:
        arguments: `-m MODULE …`, `-c CODE` or a script and its arguments.
        environ: what `environ_of` makes safe; `os.environ` by default.
        stdin: as those of `subprocess.Popen`, like `stdout` and `stderr`.
        stdout: see `stdin`.
        stderr: see `stdin`.
        cwd: its working folder; this process's by default.
        detached: whether it has a session of its own, which signals of a terminal do not reach.
    """
    return subprocess.Popen(
        command(*arguments),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=environ_of(environ),
        start_new_session=detached,
    )


def output_of(arguments: Sequence[str], *, check: bool = True) -> str:
    """Return what this Python prints when it runs `arguments`; its errors go to our stderr.

    Raises:
        subprocess.CalledProcessError: it exited with another status than 0, and `check` is set.
    """
    child = start(arguments, stdout=PIPE)
    printed, _ = child.communicate()
    if check and child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args, printed)
    return printed.decode()


def replace_this_process(arguments: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Go on as this Python on `arguments`, in the same process."""
    line = command(*arguments)
    # Arguments are a list, and no shell reads them.
    os.execve(line[0], line, environ_of(environ))  # noqa: S606


def _is_absolute(path: str) -> bool:
    return Path(path).is_absolute()


def _product_path() -> list[str]:
    """Return path entries with which a child finds this very product, none if it needs none.

    Installed packages are found without help. A checkout is put behind the standard library and
    the installed packages: none of its files may hide one of theirs.
    """
    here = Path(__file__).absolute().parents[2]
    holders = [here, Path(str(lingshu_model.__file__)).absolute().parents[1], here / "mcp_server"]
    known = _library_path()
    missing = [str(p) for p in holders if p.is_dir() and str(p) not in known]
    return [*known, *missing] if missing else []


def _library_path() -> list[str]:
    """Return the entries of `sys.path` that hold the standard library and installed packages."""
    library = str(Path(os.__file__).parent)
    installed = {*site.getsitepackages(), *([site.getusersitepackages()] if _user_site() else [])}
    return [p for p in sys.path if p in installed or p == library or p.startswith(library + os.sep)]


def _user_site() -> bool:
    return bool(site.ENABLE_USER_SITE)

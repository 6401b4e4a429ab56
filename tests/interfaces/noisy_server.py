"""The server in a process where Python, the C library and children print to descriptor 1.

They print when the modules named in `NOISY` are imported, whenever a database is opened, and, from
a thread, all the time until the process ends.
"""

import ctypes
import importlib.abc
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NOISY = ("lingshu_mcp.back", "mcp.server", "sqlalchemy", "numpy")
SOURCES = ("python", "descriptor", "library", "child")


def make_noise(occasion: str) -> None:
    """Print `SOURCE: OCCASION` from each source."""
    _write_line(f"python: {occasion}")
    os.write(1, f"descriptor: {occasion}\n".encode())
    library = ctypes.CDLL(None)
    library.puts(f"library: {occasion}".encode())
    library.fflush(None)
    subprocess.run(["/bin/sh", "-c", f"echo 'child: {occasion}'"], check=True)


def _write_line(text: str) -> None:
    """Print a line as a whole: `print` writes the end of a line apart, and threads mix then."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == NOISY[0]:
            threading.Thread(target=_chatter, daemon=True).start()
        if name in NOISY:
            make_noise(f"import {name}")
        return None


def _chatter() -> None:
    pause = threading.Event()
    while not pause.wait(0.001):
        os.write(1, b"descriptor: thread\n")
        _write_line("python: thread")


def _hear(event: str, _: object) -> None:
    if event == "sqlite3.connect":
        make_noise("call")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Finder())
    sys.addaudithook(_hear)
    sys.argv = ["lingshu_mcp", *sys.argv[1:]]
    runpy.run_module("lingshu_mcp", run_name="__main__", alter_sys=True)

"""Homes, umasks and a process with a file system that lacks something."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHIM = Path(__file__).parent / "shim.c"


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Set the umask of this process until the end of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD that makes calls of the C library fail below a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: a file system that lacks something cannot be imitated")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"the shim does not compile here: {built.stderr[:200]}")
    return library

"""Another user of this machine, which only root can be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OTHER_UID = 12345
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="works as another user: needs root")


@contextmanager
def as_user(uid: int, *reaching: Path) -> Iterator[None]:
    """Run a part of a test as another user, who can pass through the folders above `reaching`."""
    for path in reaching:
        for folder in (path, *path.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)

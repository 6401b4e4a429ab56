"""Stored objects as a child reads them: checked here, so that no call waits for a large one."""

from pathlib import Path

from lingshu_model.contracts import digest_file
from lingshu_tools.errors import TamperError


def checked(path: Path, digest: str) -> Path:
    """Return the file of a stored object after checking its bytes.

    Raises:
        TamperError: they are not those it was stored with.
    """
    actual = digest_file(path)
    if actual != digest:
        message = f"{path} is {actual}, not {digest}: it is damaged; replay its experiment"
        raise TamperError(message)
    return path

"""Where a ledger lives by default. Knows nothing of what is inside."""

import os
import sys
from pathlib import Path


def default_home() -> Path:
    """Return `LINGSHU_HOME` or the platform's user-data folder for lingshu; it may not exist."""
    if chosen := os.environ.get("LINGSHU_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "lingshu"
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / "lingshu"

"""What cells were sampled on, in words."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def machine_name(profile: Mapping[str, Any]) -> str:
    """Return the device of the cells: a GPU's name, or this machine's processor."""
    device = str(profile.get("device", "cpu"))
    if device != "cpu":
        return device
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"

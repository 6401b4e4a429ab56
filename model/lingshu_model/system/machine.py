"""What cells were sampled on, in words."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARY_SETTINGS = (
    "DNNL_MAX_CPU_ISA",
    "DNNL_DEFAULT_FPMATH_MODE",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables by which numerical libraries choose other instructions, and so other last bits."""


def library_settings() -> dict[str, dict[str, str]]:
    """Return the numerics profile's `library_settings`; nothing where no variable is set.

    An additional field would be another profile for results from before it.
    """
    known = {name: os.environ[name] for name in LIBRARY_SETTINGS if name in os.environ}
    return {"library_settings": known} if known else {}


def machine_name(profile: Mapping[str, Any]) -> str:
    """Return the device of the cells: a GPU's name, or this machine's processor."""
    device = str(profile.get("device", "cpu"))
    if device != "cpu":
        return device
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"

"""The numerics profile: device, dtype, threads and flags that decide the bits of a result.

Two results can be equal to the bit only if their profiles are. The sizes below are measured on
CPUs; they are fixed, since another size is another order of sums.
"""

import ctypes
import os
import platform
import sys
from typing import Any

import torch
from torch.utils import deterministic

from lingshu_model.system.machine import library_settings

# glibc's mallopt parameters. Every large tensor otherwise comes fresh from the kernel and pays a
# page fault for each 4 KiB: half of a training step or more. M_MMAP_THRESHOLD cannot exceed 32 MiB,
# so mmap is switched off altogether, and one arena keeps everything on the growing heap.
_MALLOPT = {-1: 2**31 - 1, -2: 64 << 20, -4: 0, -8: 1}  # trim threshold, top pad, mmaps, arenas

SHORT = 64
"""Tokens up to which attention on a CPU is written out in float32 instead of running fused."""
MIDDLE = 192
"""Tokens up to which it is written out in the network's own dtype."""

SCORES = 1 << 21
"""Attention scores of a longer sequence that a CPU holds at a time in bf16: 4 MiB."""

WHOLE = 1 << 14
"""Tokens up to which a CPU takes a tile through the network whole."""

TOKENS = 2048
"""Tokens of a larger tile that it takes at a time, so that what lies between fits its cache."""

LOGITS = 1 << 19
"""Float32 values that a CPU holds at a time while it draws: 2 MiB of hidden vectors and logits."""


def prepare(threads: int | None = None) -> None:
    """Pin threads, choose deterministic kernels and keep freed memory in the process.

    Args:
        threads: of torch; None = as they are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # cuBLAS is deterministic only with a workspace of its own, which it reads at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    # Every element is written before it is read; filling fresh memory first only costs time.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # TF32 keeps 10 bits of the mantissa: "float32" would be another numerics profile. The settings
    # of torch 2.9 and on; the older `allow_tf32` warns on a GPU and may not be mixed with them.
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]
    # Partial sums of a split product would otherwise be added in bf16.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # Benchmarking chooses a kernel by its time, which differs from run to run.
    torch.backends.cudnn.benchmark = False
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in _MALLOPT.items():
            libc.mallopt(parameter, value)


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether bf16 matrix products run in hardware on `device`."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_bf16()


def _cpu_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `name` (auto, float32, bfloat16) means on `device`."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def cells_at_once(device: torch.device, tile: int, length: int) -> int:
    """Return how many cells of `length` tokens go through the network together."""
    if device.type != "cpu" or tile * length <= WHOLE:
        return tile
    # A power of two, as tiles usually are: parts of equal shape.
    return min(tile, 1 << (max(1, TOKENS // length).bit_length() - 1))


def profile(
    device: torch.device,
    dtype: torch.dtype,
    tile: int,
    *,
    length: int,
    at_once: int,
    compiled: str | None = None,
) -> dict[str, Any]:
    """Return the numerics profile: everything known to change a bit of a result.

    Args:
        device: of the network.
        dtype: of its products.
        tile: cells of a tile.
        length: tokens of a cell.
        at_once: cells that are computed together.
        compiled: mode of `torch.compile`; None = not compiled.
    """
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    settings = {
        "attention": "sdpa" if cuda else _attention(dtype, length),
        "compiled": compiled or False,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_matrix_unit": "amx" if _amx() else "none",
        "device": properties.name if properties else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "dtype": str(dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "onednn": torch.backends.mkldnn.is_available(),
        "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "threads": torch.get_num_threads(),
        "tile": tile,
        "torch": torch.__version__,
    }
    # Only where they apply: an additional field would be another profile for old results.
    if cuda:
        settings["cublas"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if at_once < tile:
        settings["at_once"] = at_once
    return settings | library_settings()


def _attention(dtype: torch.dtype, length: int) -> str:
    if length > MIDDLE and dtype == torch.bfloat16:
        return f"explicit, {SCORES} scores at a time"
    return f"explicit to {MIDDLE} tokens, float32 to {SHORT}; then sdpa"


def _amx() -> bool:
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())

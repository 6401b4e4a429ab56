"""A Python environment for each tool whose requirements are not ours, installed on first use."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

PYTHON = "python3.11"
STAMP = "requirements.sha256"
SETTINGS = {
    "WANDB_MODE": "disabled",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    # Freed memory is kept: fresh pages cost a CPU training step half its time (docs/log.md).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}


def python_of(name: str, required: Path, folder: Path) -> Path:
    """Return the interpreter of an environment, installed anew if its requirements have changed.

    Args:
        name: of the environment's folder.
        required: a requirements file with pinned versions.
        folder: where environments are.

    Raises:
        FileNotFoundError: no Python 3.11 is on the path; the pinned versions need it.
    """
    home = (folder / name).absolute()
    digest = hashlib.sha256(required.read_bytes()).hexdigest()
    stamp = home / STAMP
    if not stamp.is_file() or stamp.read_text("utf-8") != digest:
        install(home, required)
        stamp.write_text(digest, "utf-8")
    return home / "bin" / "python"


def install(home: Path, required: Path) -> None:
    """Make the environment and install what is required into it."""
    base = shutil.which(PYTHON)
    if base is None:
        message = f"no {PYTHON} on PATH: the pinned versions need it; install it and rerun"
        raise FileNotFoundError(message)
    subprocess.run([base, "-P", "-m", "venv", home], check=True)
    pip = [home / "bin" / "python", "-P", "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--requirement", required], check=True, env=surroundings())


def run(python: Path, *arguments: Path) -> None:
    """Run a script in an environment and wait for it.

    Raises:
        CalledProcessError: it failed.
    """
    # Without progress bars: the tools have one per loop.
    settings = surroundings() | {"TQDM_DISABLE": "1"}
    subprocess.run([python, "-P", *arguments], check=True, env=settings)


def surroundings() -> dict[str, str]:
    """Return the environment variables of such a process: none of our packages in reach."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}
    return kept | SETTINGS

"""Each peer's own Python environment, made once from its requirements.

Knows nothing of what runs there.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
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


def python_of(environment: str, folder: Path) -> Path:
    """Return the interpreter of an environment, made anew if its requirements have changed.

    Raises:
        FileNotFoundError: no Python 3.11 is on the path; the peers' pinned versions need it.
    """
    home = (folder / f"peers-{environment}").absolute()
    required = REQUIREMENTS / f"{environment}.txt"
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
        message = f"no {PYTHON} on PATH: the peers' pinned versions need it; install it and rerun"
        raise FileNotFoundError(message)
    subprocess.run([base, "-P", "-m", "venv", home], check=True)
    pip = [home / "bin" / "python", "-P", "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--requirement", required], check=True, env=surroundings())


def surroundings() -> dict[str, str]:
    """Return the environment variables of a peer's process: none of our packages in reach."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}
    return kept | SETTINGS

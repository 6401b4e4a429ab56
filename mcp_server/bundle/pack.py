"""`python mcp_server/bundle/pack.py WHEEL OUT.mcpb`: the bundle for desktop clients.

A bundle is a zip archive with a manifest, an entry point, a project that uv installs, and the wheel
of this package; its other dependencies come from the package index at the first start. The same
wheel gives the same bytes.
"""

import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PUBLISHED = HERE.parents[1] / "lingshu_tools" / "calls" / "published_tools.json"
_MOMENT = (2026, 1, 1, 0, 0, 0)
_PROJECT = """\
[project]
name = "lingshu-tools-bundle"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["lingshu-tools[mcp,model]"]

[tool.uv]
package = false

[tool.uv.sources]
lingshu-tools = {{ path = "{wheel}" }}
"""


def manifest(version: str) -> dict[str, object]:
    """Return the manifest with the version of the wheel and the tools that the server lists."""
    values = json.loads((HERE / "manifest.json").read_text("utf-8"))
    tools = json.loads(PUBLISHED.read_text("utf-8"))
    listed = [{"name": tool["name"], "description": tool["title"]} for tool in tools]
    return {**values, "version": version, "tools": listed}


def pack(wheel: Path, out: Path) -> None:
    """Write the bundle of a wheel.

    Raises:
        SystemExit: the file is no wheel of this package.
    """
    name, version, *_ = [*wheel.name.split("-"), ""]
    if name != "lingshu_tools" or wheel.suffix != ".whl":
        message = (
            f"{wheel.name} is no wheel of lingshu-tools: build one with `pip wheel --no-deps .`"
        )
        raise SystemExit(message)
    files = {
        "manifest.json": json.dumps(manifest(version), indent=2).encode() + b"\n",
        "pyproject.toml": _PROJECT.format(version=version, wheel=wheel.name).encode(),
        "server.py": (HERE / "server.py").read_bytes(),
        wheel.name: wheel.read_bytes(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in sorted(files.items()):
            info = zipfile.ZipInfo(path, _MOMENT)
            info.external_attr = 0o644 << 16
            # The wheel is compressed already.
            info.compress_type = zipfile.ZIP_STORED if path == wheel.name else zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    pack(Path(sys.argv[1]), Path(sys.argv[2]))

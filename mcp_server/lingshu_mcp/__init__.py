"""The MCP door: the tool registry shown to MCP clients."""

import sys

# `python -m` puts the working folder first on the path: nothing else may be imported from there.
if (
    sys.argv[:1] == ["-m"]
    and sys.orig_argv[-len(sys.argv)].startswith(__name__)
    and not sys.flags.safe_path
    and sys.path[0] != __file__.rsplit("/", 2)[0]
):
    del sys.path[0]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lingshu_mcp.server import build_server

__all__ = ["build_server"]


def __getattr__(name: str) -> Any:
    """Return a public name, read when first asked: a command decides when it imports the SDK."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from lingshu_mcp.server import build_server

    return build_server

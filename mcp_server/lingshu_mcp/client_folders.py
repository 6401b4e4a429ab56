"""Folders that a client on this machine opens: MCP roots, where the protocol has them.

Roots were removed with 2026-07-28; clients of earlier versions may give them. They count over stdio
alone: over HTTP a client's paths are those of another machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context

FILES: Final = "cells"
"""The argument that names a file."""
# Seconds that a client gets to answer; folders that are taken of one client.
WAIT_S: Final = 1.0
MOST: Final = 20


async def client_folders(context: Context[Any, Any], arguments: Mapping[str, Any]) -> list[Path]:
    """Return the folders that the client of a call gives as roots; empty where it gives none.

    They are asked for only by calls that name a file.
    """
    known = context.client_capabilities
    # Only an HTTP request has headers.
    over_http = bool(context.headers)
    if not arguments.get(FILES) or over_http or known is None or known.roots is None:
        return []
    try:
        with anyio.fail_after(WAIT_S):
            # `session.list_roots` sends the same, and warns that later versions have no roots.
            request = types.ListRootsRequest()
            answer = await context.session.send_request(request, types.ListRootsResult)
    except Exception:  # noqa: BLE001 - a client that does not answer gives no roots
        return []
    folders = [folder_of(str(root.uri)) for root in answer.roots[:MOST]]
    return [folder for folder in folders if folder is not None]


def folder_of(uri: str) -> Path | None:
    """Return the folder of a `file:` URI of this machine, links resolved; None of any other."""
    parts = urlsplit(uri)
    # Another host in the URI: its path means nothing here.
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    path = Path(unquote(parts.path))
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    # The root of the file system or a whole home would open more than data.
    high = real in (Path(real.anchor), Path.home())
    return real if path.is_absolute() and real.is_dir() and not high else None

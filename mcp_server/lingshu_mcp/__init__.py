"""The MCP door: the tool registry shown to MCP clients. Knows nothing of what a tool does."""

from lingshu_mcp.server import build_server

__all__ = ["build_server"]

"""MCP over HTTP on a loopback address, with a bearer token.

`run` starts and ends the server, `connections` bounds what a connection may hold, `gate` decides
which requests reach the SDK, `sessions` bounds the SDK's sessions, `metrics` counts.
"""

from lingshu_mcp.http.run import Address, AddressError, serve_http

__all__ = ["Address", "AddressError", "serve_http"]

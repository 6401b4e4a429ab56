"""The lab page: one HTML file, as an MCP App in chat clients and served by `lingshu browse`.

`document` reads the built file, `extension` advertises it to clients that show such pages,
`serving` serves it on a loopback address. Its sources are in `mcp_server/page`.
"""

"""The entry point of the bundle: the MCP server over stdio."""

import runpy

runpy.run_module("lingshu_mcp", run_name="__main__", alter_sys=True)

"""The engine: a process that holds checkpoints in memory and answers arms with cells.

Knows nothing of ledgers, tools or MCP.
"""

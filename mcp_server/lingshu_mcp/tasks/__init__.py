"""Long experiments as tasks, the MCP extension io.modelcontextprotocol/tasks."""

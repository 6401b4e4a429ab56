"""The official MCP conformance suite, run against the product's server."""

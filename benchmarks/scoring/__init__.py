"""Our scorer beside the tools whose metrics it computes: equality and time."""

"""The metrics of the Virtual Cell Challenges 2025 and 2026, computed by the field's own tools."""

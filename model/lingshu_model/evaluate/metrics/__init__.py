"""Metrics of changes, of samples of cells, and what they are computed from."""

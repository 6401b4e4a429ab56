"""Sampling of cells from a checkpoint, and how likely given cells are."""

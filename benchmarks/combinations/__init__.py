"""Combinations: doubles of a semi-synthetic K562, and triples and quadruples of a known network."""

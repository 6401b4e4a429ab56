"""Certainty of answers on held-out cells, screens and null labels, findings before and after."""

"""Interactions of perturbations, and classes of pairs."""

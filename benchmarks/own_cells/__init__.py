"""A user's cells against truth: perturbed, scored, completed, and the gene report."""

"""Gene-gene correlations of a checkpoint's cells against those of held-out cells."""

"""A user's cells: read from an h5ad file onto a checkpoint's panel, effects carried to them."""

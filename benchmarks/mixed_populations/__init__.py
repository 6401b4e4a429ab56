"""Mixed populations against held-out cells: composition, subtypes and markers."""

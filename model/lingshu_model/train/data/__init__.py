"""Training cells: read from h5ad files, matched to a panel of genes, kept and summarised."""

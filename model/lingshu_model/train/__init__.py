"""Training: a spec, cells read from h5ad files, a resumable loop, a checkpoint folder."""

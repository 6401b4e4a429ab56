"""What an h5ad file holds, and how it would be trained on: read without torch."""

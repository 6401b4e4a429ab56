"""Other models on the same splits: each in an environment of its own, compared by our metrics."""

"""Closed-form effects beside every simple predictor, on data sets that no recipe was tuned on."""

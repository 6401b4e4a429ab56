"""Resources, prompts and completions: their registration, and modules that do the work."""

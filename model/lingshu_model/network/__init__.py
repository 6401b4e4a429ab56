"""The network: tokens, conditions, transformer blocks, logits, weights, numerics profile."""

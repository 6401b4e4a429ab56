"""The engine's HTTP side: where it listens, who may ask, and its routes."""

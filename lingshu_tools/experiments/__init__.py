"""Experiments: their designs, the threads that run them, findings, screens and replays."""

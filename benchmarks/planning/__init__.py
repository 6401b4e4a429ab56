"""Benchmarks of the planner: real screens planned in rounds, and scale."""

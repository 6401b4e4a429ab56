"""Faults, waits and cold starts: what happens to calls when everything around them goes wrong."""

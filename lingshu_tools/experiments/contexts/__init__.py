"""Contexts as callers name them: one that was trained, or several that are mixed."""

"""Fixtures of tests with a user's cells."""

from user_cells_lab import app, checkpoint, file, folder, open_folder

__all__ = ["app", "checkpoint", "file", "folder", "open_folder"]

"""A user's cells: the folders that may be read, and files read in child processes."""

from lingshu_tools.experiments.roots import Roots
from lingshu_tools.user_cells.reading import ReadCells, Request, read

__all__ = ["ReadCells", "Request", "Roots", "read"]

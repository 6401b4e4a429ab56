"""A user's cells: the folders that may be read, and files read in child processes."""

from lingshu_tools.user_cells.reading import ReadCells, Request, read
from lingshu_tools.user_cells.roots import Roots

__all__ = ["ReadCells", "Request", "Roots", "read"]

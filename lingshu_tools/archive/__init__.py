"""A whole ledger as one zip, and back: nothing is let in that does not verify."""

from lingshu_tools.archive.arriving import import_ledger
from lingshu_tools.archive.form import ArchiveError, Limits, Metadata
from lingshu_tools.archive.leaving import export_ledger

__all__ = ["ArchiveError", "Limits", "Metadata", "export_ledger", "import_ledger"]

"""The command line `lingshu`."""

from lingshu_tools.cli.commands import main, serve

__all__ = ["main", "serve"]

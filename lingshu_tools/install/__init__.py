"""The configuration of MCP clients: which file, which entry, and writing it without losing any."""

from lingshu_tools.install.clients import CLIENTS, Client, find_client
from lingshu_tools.install.entries import printed, with_entry
from lingshu_tools.install.server_command import Server, this_server
from lingshu_tools.install.settings_file import SettingsFile

__all__ = [
    "CLIENTS",
    "Client",
    "Server",
    "SettingsFile",
    "find_client",
    "printed",
    "this_server",
    "with_entry",
]

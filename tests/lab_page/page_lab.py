"""A home with a finished screen, and the page's server, as tests of the page use them."""

from dataclasses import dataclass
from typing import Any

from lingshu_mcp.http import Address
from lingshu_mcp.lab_page.serving import PageToken, page_url
from lingshu_tools.app import App
from lingshu_tools.calls.dispatcher import call

CONTEXT = {"cell_line": "THP-1", "stimulus": "IFN-gamma"}
PLAN: dict[str, Any] = {
    "checkpoint": "thp1-crispr",
    "context": CONTEXT,
    "objective": {"lower": ["PSMB9", "UBE2L6"]},
    "candidates": ["STAT1", "JAK2", "IRF1", "CUL3"],
    "n_cells": 16,
    "wait_s": 45,
}


@dataclass
class Lab:
    """A home, and the ids of what is in it."""

    app: App
    screen: str
    experiments: list[str]

    def finished(self, tool: str, **arguments: Any) -> Any:
        """Return the result of a call once its experiments have ended."""
        result = call(self.app, tool, arguments)
        assert result.status == "succeeded", result.summary
        return result


@dataclass
class Served:
    """The page's server in a thread of this process."""

    address: Address
    token: PageToken

    def url(self, name: str | None = None) -> str:
        return page_url(self.address, self.token, name)

"""The built file of the lab page, and the headers that it is served with."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

URI: Final = "ui://lingshu/lab.html"
APP_MIME_TYPE: Final = "text/html;profile=mcp-app"
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">')


@cache
def html() -> str:
    """Return the page: HTML with its script, its style sheet and their policy."""
    return (files("lingshu_mcp.lab_page") / "lab.html").read_text("utf-8")


def policy() -> str:
    """Return the content security policy that the page itself has."""
    match = _POLICY.search(html())
    if match is None:
        message = "lab.html has no content security policy: build it again (make page)"
        raise ValueError(message)
    return match[1]


def headers() -> Mapping[str, str]:
    """Return the response headers of the page.

    A policy in a document cannot forbid frames around it; a header can.
    """
    return {
        "content-security-policy": f"{policy()}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }

"""A chat on a terminal: replies on standard output, everything about them on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from lingshu_tools.chat.costs import Cost
from lingshu_tools.system.plain_text import plain


class Terminal:
    """Shows a chat; what a model or a tool says moves no cursor and shows no secret.

    Args:
        secret: a text that is never shown, not even in parts that come one by one.
        quiet: show nothing.
    """

    def __init__(self, *, secret: str | None = None, quiet: bool = False) -> None:
        self._secret, self._quiet = secret or "", quiet
        self._held = ""

    def text(self, part: str) -> None:
        """Show a part of a reply, but for an end that may be the begin of the secret."""
        if self._quiet:
            return
        self._held += part
        # What may be the begin of the secret waits for the next part, which decides.
        kept = _begin_of(self._held, self._secret)
        shown, self._held = self._held[: len(self._held) - kept], self._held[-kept:] if kept else ""
        if shown:
            click.echo(plain(shown, keep="\n\t"), nl=False)

    def end_of_text(self) -> None:
        """Show what was held back, and end the line."""
        if not self._quiet:
            click.echo(plain(self._held, keep="\n\t"))
        self._held = ""

    def call(self, tool: str, arguments: str) -> None:
        """Show a call on one line."""
        short = " ".join(arguments.split())
        self._say(f"→ {tool} {short if len(short) <= 200 else short[:200] + '…'}", dim=True)

    def answer(self, answer: Mapping[str, Any], cost: Cost) -> None:
        """Show an answer's summary, id, cost and ledger head."""
        name = answer.get("experiment_id") or answer.get("screen_id")
        head = answer.get("ledger_head")
        facts = [str(answer.get("status")), str(cost), *([str(name)] if name else [])]
        facts += [f"ledger {str(head)[:20]}"] if head else []
        self._say(f"  {', '.join(facts)}", dim=True)
        summary = str(answer.get("summary", ""))
        self._say(f"  {summary if len(summary) <= 400 else summary[:400] + '…'}", dim=True)

    def note(self, text: str) -> None:
        """Show a line about the chat."""
        self._say(f"[{text}]")

    def confirm(self, question: str) -> bool:
        """Return what the person answers; False where nobody can."""
        return sys.stdin.isatty() and click.confirm(plain(question), err=True)

    def _say(self, text: str, *, dim: bool = False) -> None:
        if not self._quiet:
            click.echo(click.style(plain(text), dim=dim), err=True)


def _begin_of(text: str, secret: str) -> int:
    """Return the length of the longest end of a text with which the secret begins."""
    # The whole secret is replaced by `plain`.
    longest = min(len(text), len(secret) - 1)
    return next((n for n in range(longest, 0, -1) if secret.startswith(text[-n:])), 0)

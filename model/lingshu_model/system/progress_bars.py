"""Progress of long work: a bar on a terminal, a line each half minute on a pipe."""

import io
import sys
from typing import Any

from tqdm import tqdm

EVERY_S = 30.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left{postfix}"


class Progress(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """tqdm's bar on stderr; where stderr is no terminal, lines.

    A line is written at the beginning, at the end, and between them each `EVERY_S` seconds.
    """

    def __init__(self, *args: Any, desc: str, **options: Any) -> None:
        self.plain = not sys.stderr.isatty()
        if self.plain:
            options |= {"mininterval": EVERY_S, "maxinterval": 2 * EVERY_S, "bar_format": _LINE}
        super().__init__(*args, desc=desc, file=sys.stderr, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write a line."""
        if not self.plain:
            super().display(msg, pos)
        elif msg != "":
            sys.stderr.write(f"{msg or self}\n")
            sys.stderr.flush()

    def set_postfix(self, *args: Any, **values: Any) -> None:
        """Set what stands behind the bar; a pipe gets it with the next line."""
        refresh = values.pop("refresh", True) and not self.plain
        super().set_postfix(*args, refresh=refresh, **values)

    def clear(self, *args: Any, **options: Any) -> None:
        """Remove the bar; what was written to a pipe stays."""
        if not self.plain:
            super().clear(*args, **options)

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self.plain and not self.disable:
            self.display()
            # What tqdm writes last would be an empty line.
            self.leave, self.fp = False, io.StringIO()
        super().close()

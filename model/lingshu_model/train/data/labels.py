"""Labels of cells and genes as text: trimmed, with what is missing marked.

A label is missing where the column has none, where it is empty, and where it is one of the texts
that programs write for a missing value.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "NaT", "null", "None"})
"""Texts that stand for no label, unless a specification names one of them."""
UNKNOWN = re.compile(
    r"(unknown|unassigned|undetermined|unclassified|unannotated|doublets?|multiplets?|ambiguous|"
    r"low[ _-]?quality|debris|undefined|not[ _-]?assigned|negative[ _-]?cell|unmapped|uncertain|"
    r"multiple([ _-]?guides?)?|multi([ _-]?guides?)?|no[ _-]?call|filtered([ _-]?out)?|excluded|"
    r"low[ _-]?confidence|[?-]+)",
    re.IGNORECASE,
)
"""Labels by which annotations say that a cell's type, guide or donor is not known."""


@dataclass(frozen=True)
class Texts:
    """A column of labels.

    Attributes:
        values: trimmed text of each, "" where the column itself has none.
        absent: where the column has none, or an empty text.
    """

    values: NDArray[np.str_]
    absent: NDArray[np.bool_]

    def missing(self, *, but: Iterable[str] = ()) -> NDArray[np.bool_]:
        """Return which labels are missing; texts in `but` are labels all the same."""
        # A control may be called `None`; then the text is a label.
        words = [*(MISSING - set(but))]
        return self.absent | np.isin(self.values, words)


def texts(column: pd.Series) -> Texts:
    """Return a column as text.

    Categories are converted once each: cells are many and categories few.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = np.array([*(_text(v) for v in column.cat.categories), ""], dtype=str)
        values = names[column.cat.codes.to_numpy()]  # -1, no category, is the last
    else:
        present = column.notna().to_numpy(bool)
        raw = column.to_numpy(object)
        plain = [_text(v) if ok else "" for v, ok in zip(raw, present, strict=True)]
        values = np.array(plain, dtype=str) if plain else np.zeros(0, "U1")
    return Texts(values, values == "")


def counted(values: Iterable[str], most: int = 6) -> str:
    """Return the commonest texts with how often each is there, such as `'ctrl' (80), 'A' (40)`."""
    names, times = np.unique(np.array([*values], dtype=str), return_counts=True)
    # Equal counts stay in the order of their names.
    order = np.argsort(-times, kind="stable")
    shown = [f"{str(names[i])!r} ({int(times[i]):,})" for i in order[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'NAME'?)` for the known name that is most like `name`, or nothing."""
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, 1, 0.75)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip()

"""What can go wrong, as one tree.

LingshuError
├── InputError            the caller can mend it: value, what is allowed, what to do next
│   ├── NotFoundError     an id, a checkpoint or a gene that does not exist
│   │   └── MissingCheckpointError  the one that a row names by its digest is not here
│   └── CostError         the call would take longer than it may without being asked for
├── EngineError           the engine could not be reached, started or finish an arm
│   ├── EngineBusyError   not now: it does not answer, or others use it; work is tried again
│   ├── CellsGoneError    the engine no longer keeps the cells; they are computed again
│   └── ForeignAnswerError  the answer belongs to another request, and was not used
├── LedgerError           the ledger cannot be opened, written or trusted
│   ├── BusyError         somebody alive is at work on the experiment
│   ├── LockedError       another program holds the database's lock
│   ├── SealedError       the experiment has its outcome already
│   ├── SchemaError       a table, view, trigger or index is not as its revision says
│   └── TamperError       a row or an object is not what its hash says
├── EndpointError         a chat endpoint could not be reached, refused, or answered nothing usable
├── BudgetError           the principal has as much at work as it may have at a time
├── CancelledError        the experiment was cancelled; what was done is kept
└── InternalError         a fault of ours: a fixed sentence and an incident id
"""

import difflib
import re
from collections.abc import Iterable, Mapping

LONGEST_ECHO = 200
"""Characters of what a caller sent that a message repeats."""
_LONGEST_MESSAGE = 4000
_LONG_WORD = re.compile(rf"\S{{{LONGEST_ECHO + 100},}}")


class LingshuError(Exception):
    """Base of every error this library raises on purpose; its text is fit to be shown."""


class InputError(LingshuError):
    """A smarter caller could have avoided this; the message says how.

    Attributes:
        replacing: names in the call that are wrong, and what each may be instead; None: nothing,
            the rest of the call stands without it.
    """

    def __init__(self, message: str = "", replacing: Mapping[str, str | None] | None = None):
        super().__init__(message)
        self.replacing = dict(replacing or {})


class NotFoundError(InputError):
    """Something named does not exist; the nearest names are offered."""


class MissingCheckpointError(NotFoundError):
    """The checkpoint that a ledger row names by its digest is not here; the message says both."""


class CostError(InputError):
    """The estimate of a call is above what it may take; nothing was begun.

    Attributes:
        seconds: the estimated seconds of computing.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class EngineError(LingshuError):
    """The engine could not be reached, started, or failed; the message says what to do."""


class EngineBusyError(EngineError):
    """The engine cannot be used now; background work tries again by itself."""


class CellsGoneError(EngineError):
    """The engine no longer keeps the cells of a job; submit its arm again."""


class ForeignAnswerError(EngineError):
    """What answered is not the answer to the request; nothing of it was used."""


class LedgerError(LingshuError):
    """The ledger cannot be opened or written; nothing was lost."""


class BusyError(LedgerError):
    """An attempt at this experiment is alive; wait for it instead of starting another."""


class LockedError(LedgerError):
    """Another program held the database's lock for as long as this one could wait."""


class SealedError(LedgerError):
    """The experiment has its outcome already; read that instead."""


class SchemaError(LedgerError):
    """A table, view, trigger or index of the ledger is missing, changed or foreign."""


class TamperError(LedgerError):
    """A ledger row or object does not match its hash."""


class EndpointError(LingshuError):
    """The endpoint of a chat could not be reached, refused, or answered nothing usable."""


class BudgetError(LingshuError):
    """The principal has as much at work as it may; the message says what is left."""


class CancelledError(LingshuError):
    """The experiment was cancelled."""


class InternalError(LingshuError):
    """Something went wrong that no caller could have avoided; details are on stderr."""


def quoted(value: object) -> str:
    """Return a value as messages show it: its repr, cut after 200 characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}… ({len(text)} characters)"


def bounded(text: str) -> str:
    """Return a message whose words are at most 200 characters long, and itself at most 4,000.

    A net below `quoted`: whatever a caller sent may stand in a message in some other form.
    """
    words = _LONG_WORD.sub(lambda word: f"{word[0][:LONGEST_ECHO]}…", text)
    if len(words) <= _LONGEST_MESSAGE:
        return words
    left_out = len(words) - _LONGEST_MESSAGE
    end = words[-_LONGEST_MESSAGE // 4 :]
    return f"{words[: _LONGEST_MESSAGE * 3 // 4]}… ({left_out} more characters) …{end}"


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` known names that look like `name`, best first, ignoring case."""
    by_fold = {k.casefold(): k for k in known}
    # Comparing takes a time that grows with the square of the length.
    name = name[:LONGEST_ECHO].casefold()
    matches = difflib.get_close_matches(name, by_fold, n=n, cutoff=0.5)
    return [by_fold[m] for m in matches]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean …?`, or nothing where no known name is close."""
    near = nearest(name, known)
    return f" Did you mean {' or '.join(repr(f) for f in near)}?" if near else ""

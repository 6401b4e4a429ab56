"""Sessions of the SDK's HTTP transport: counted, and the longest idle ended when there are many.

The SDK refuses a new session beyond its limit; here an old one makes room. A session belongs to a
principal, and the principal with most sessions gives one up first.
"""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

MAX_SESSIONS: Final = 256
IDLE_S: Final = 1800.0
"""Seconds without a request after which a session ends."""


@dataclass
class Session:
    """One session: whose, how many requests it has in flight, and when it was used last."""

    id: str
    principal: str
    in_flight: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Sessions:
    """The sessions that are open, as far as their answers have passed here."""

    def __init__(self, most: int = MAX_SESSIONS) -> None:
        self.most = most
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session_id: str, principal: str) -> Session:
        """Return a session, new or known."""
        return self._sessions.setdefault(session_id, Session(session_id, principal))

    def get(self, session_id: str) -> Session | None:
        """Return a session that is open."""
        return self._sessions.get(session_id)

    def forget(self, session_id: str) -> None:
        """Drop a session that has ended."""
        self._sessions.pop(session_id, None)

    def expired(self) -> list[Session]:
        """Return the sessions that nobody has used for too long."""
        before = time.monotonic() - IDLE_S
        # A session with an open request is in use, however long that takes.
        return [s for s in self._sessions.values() if not s.in_flight and s.used_at < before]

    def of_others(self, principals: set[str]) -> list[Session]:
        """Return the sessions of principals that are none of these."""
        return [s for s in self._sessions.values() if s.principal not in principals]

    @contextmanager
    def used(self, session: Session | None) -> Generator[None]:
        """Count a request of a session inside this context."""
        if session is None:
            yield
            return
        session.in_flight += 1
        try:
            yield
        finally:
            session.in_flight -= 1
            # The idle time begins when the answer has been sent.
            session.used_at = time.monotonic()

    def to_end(self) -> Session | None:
        """Return the session that makes room for a new one; None where there is room.

        Raises:
            LookupError: there is none without a request in flight.
        """
        if len(self._sessions) < self.most:
            return None
        idle = [s for s in self._sessions.values() if not s.in_flight]
        if not idle:
            raise LookupError
        held = Counter(s.principal for s in self._sessions.values())
        return min(idle, key=lambda s: (-held[s.principal], s.used_at))

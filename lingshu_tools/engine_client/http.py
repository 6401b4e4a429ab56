"""HTTP to an engine: every answer is matched with its request before anything is read from it.

A request carries a random call id and the protocol's version, and the engine repeats both. What
comes back without them is not used, and the request is sent again. Requests may be
repeated: equal ones mean the same job.

Every request has a connection of its own. One that waits in a pool would be shared with processes
that are forked meanwhile, and their answers would cross; connecting to a local socket takes less
than a tenth of a millisecond.
"""

import os
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from lingshu_model import __version__
from lingshu_model.contracts.messages import CALL_HEADER, PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER
from lingshu_model.system import forks
from lingshu_model.system.private import UnsafePathError
from lingshu_tools.errors import EngineBusyError, EngineError, ForeignAnswerError
from lingshu_tools.system.deadline import remaining

ANSWER_S = 120.0
"""Seconds an engine may take to answer where no call is waiting: 30 is too short on busy cores."""
CONNECT_S = 10.0
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
_SPOKEN = {PROTOCOL_HEADER: str(PROTOCOL), VERSION_HEADER: __version__}
TRIES = 3
"""How often a request is sent whose answer belongs to another."""
# The connection ended before an answer: the engine is gone, or was never there.
_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class LostError(EngineError):
    """No engine answered, or the one that did ended meanwhile."""


class OtherEngineError(EngineError):
    """The engine that answers is of another version."""

    def __init__(self, protocol: str | None, version: str | None) -> None:
        """Take what the answer's headers say; None where they say nothing."""
        self.protocol, self.version = protocol, version
        super().__init__(
            f"the engine that answers is lingshu {version or 'of an earlier version'} (protocol "
            f"{protocol or 1}); this is {__version__} (protocol {PROTOCOL})"
        )


class Connection:
    """Requests to one engine; usable from several threads, and after a fork in parent and child."""

    def __init__(
        self, connect: Callable[[httpx.Limits], httpx.Client], log: Path, *, same_version: bool
    ) -> None:
        """Prepare; nothing is contacted yet.

        Args:
            connect: returns a new client with these limits.
            log: the engine's log, which messages name.
            same_version: whether an engine of another package version is refused too.
        """
        self._connect, self._log, self._same_version = connect, log, same_version
        self._client: httpx.Client | None = None
        self._inherited: list[httpx.Client] = []
        self._pid = os.getpid()
        forks.register(self)

    def after_fork(self) -> None:
        """Leave the parent's client alone, with the requests it has under way."""
        # Kept: closing it could wait for a lock that a thread of the parent held.
        self._inherited += [self._client] if self._client else []
        self._pid, self._client = os.getpid(), None

    def close(self) -> None:
        """Close the connections of this process; a later request makes others."""
        client, self._client = self._here(), None
        client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        wait_s: float = 0.0,
        **options: Any,
    ) -> httpx.Response:
        """Return the answer to this request; of a stream, the body is still to come.

        Args:
            method: the HTTP method.
            path: the URL's path.
            headers: those of this request alone.
            stream: whether the body is to be read later; the caller closes the answer.
            wait_s: seconds that the engine is asked to wait before it answers.
            options: as httpx takes them.

        Raises:
            LostError: no engine is there, or it went away.
            EngineBusyError: it does not answer in time.
            OtherEngineError: it is of another version.
            ForeignAnswerError: the answers belong to other requests, again and again.
        """
        # A new id for every try: a late answer to an earlier one is not taken for this one's.
        for _ in range(TRIES):
            call = secrets.token_hex(16)
            named = {**(headers or {}), **_SPOKEN, CALL_HEADER: call}
            response = self._sent(method, path, named, wait_s, stream=stream, **options)
            try:
                if self._is_answer(response, call):
                    return response
            except BaseException:
                response.close()
                raise
            response.close()
        message = (
            f"{method} {path}: {TRIES} answers belonged to other requests, and none was used. "
            "`lingshu engine stop` ends the engine; the next experiment starts another"
        )
        raise ForeignAnswerError(message)

    def send_to_any(self, method: str, path: str) -> httpx.Response:
        """Return what an engine of whatever version answers, which is matched with nothing."""
        return self._sent(method, path, _SPOKEN, 0.0, stream=False)

    @contextmanager
    def receiving(self) -> Generator[None]:
        """Turn httpx's errors into ours, also while a body is read."""
        try:
            yield
        except UnsafePathError as error:
            message = f"no engine of this user was reached: {error}"
            raise LostError(message) from error
        except _BROKEN as error:
            message = f"the engine is gone ({error}): call again to start another"
            raise LostError(message) from error
        except httpx.TimeoutException as error:
            message = (
                "the engine is there and does not answer: it may be stopped, or the machine too "
                "busy. Work goes on when it answers; `lingshu engine stop` ends it, and the next "
                "experiment starts another"
            )
            raise EngineBusyError(message) from error
        except httpx.HTTPError as error:
            message = f"the engine does not answer ({error!r}): see {self._log}"
            raise EngineError(message) from error

    def _sent(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        wait_s: float,
        *,
        stream: bool,
        **options: Any,
    ) -> httpx.Response:
        client = self._here()
        answer_s = remaining(wait_s + ANSWER_S)
        # Reading, writing and the pool get the time of the answer.
        timeout = httpx.Timeout(answer_s, connect=min(CONNECT_S, answer_s))
        with self.receiving():
            request = client.build_request(
                method, path, headers=headers, timeout=timeout, **options
            )
            return client.send(request, stream=stream)

    def _is_answer(self, response: httpx.Response, call: str) -> bool:
        protocol = response.headers.get(PROTOCOL_HEADER)
        version = response.headers.get(VERSION_HEADER)
        if protocol != str(PROTOCOL) or (self._same_version and version != __version__):
            # Before the id is compared: other versions may not repeat it.
            raise OtherEngineError(protocol, version)
        return secrets.compare_digest(response.headers.get(CALL_HEADER, ""), call)

    def _here(self) -> httpx.Client:
        # For a fork that did not run Python's hooks.
        if self._pid != os.getpid():
            self.after_fork()
        client = self._client
        if client is None:
            client = self._client = self._connect(_LIMITS)
        return client

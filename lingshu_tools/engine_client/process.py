"""The engine process of a home: found, started, replaced where it is of another version, ended."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from lingshu_model import __version__
from lingshu_model.contracts import PROTOCOL, EngineInfo
from lingshu_model.system import forks
from lingshu_model.system.endpoints import read_endpoint
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import UnsafePathError
from lingshu_tools.engine_client.answers import info_of
from lingshu_tools.engine_client.ending import Ending, end_holder
from lingshu_tools.engine_client.http import ANSWER_S, Connection, LostError, OtherEngineError
from lingshu_tools.engine_client.starting import Started, start_detached, turn_to_start, wait_until
from lingshu_tools.errors import EngineBusyError, EngineError
from lingshu_tools.system.deadline import remaining, time_limit

HEALTH_S = 2.0
"""How long an engine may take to say that it is there."""
_ENSURE_S = 10.0
"""How long it may take where it is to be used next: on busy cores 2 s may be too short."""
_LEAVING_S = 20.0
"""How long an engine that was told to exit may take."""
_POLL_S = 0.05


@dataclass(frozen=True)
class Start:
    """How an engine is started: where, with which arguments, environment and time limit."""

    places: EnginePlaces
    arguments: tuple[str, ...]
    environ: Mapping[str, str]
    timeout_s: float


class EngineProcess:
    """One home's engine, or the one at a URL; usable from several threads and after a fork."""

    def __init__(
        self, http: Connection, start: Start, url: str | None, roots: tuple[str, ...]
    ) -> None:
        """Prepare; nothing is contacted or started yet.

        Args:
            http: requests to it.
            start: how it is started.
            url: where it is instead, if it is never to be started from here.
            roots: folders in which this process finds checkpoints.
        """
        self._http, self._plan, self._url, self._roots = http, start, url, roots
        self._starting = threading.Lock()
        self._started: Started | None = None
        forks.register(self)

    def after_fork(self) -> None:
        """Leave behind the lock that a thread of the parent may hold."""
        self._starting = threading.Lock()

    def info(self, checkpoint: str | None = None) -> EngineInfo | None:
        """Return what it says of itself, as `Engine.info`."""
        # A checkpoint may have to be loaded before its profile is known.
        return self._info(checkpoint, ANSWER_S if checkpoint else HEALTH_S)

    def ensure(self, waiting: Callable[[float], None] | None = None) -> EngineInfo:
        """Return the info of one of this version, as `Engine.ensure`."""
        # Before the wait: afterwards nothing remains.
        limit_s = remaining(self._plan.timeout_s)
        end = time.monotonic() + limit_s
        # One thread of this process starts it, the others find it running.
        with self._starting:
            while time.monotonic() < end:
                # None where another engine was first: asked once more.
                view = self._info(None, _ENSURE_S) or self._start(waiting)
                if view is not None and self._is_ours(view):
                    return view
                if view is not None:
                    self._replace(view)
        message = (
            f"no engine of lingshu {__version__} has answered at {self._place} for "
            f"{limit_s:.3g} s, and another one holds "
            f"{self._plan.places.lock}: see {self._plan.places.log}. `lingshu engine stop` ends it"
        )
        raise EngineBusyError(message)

    def shutdown(self) -> bool:
        """Return whether an engine, of whatever version, was there and was told to exit.

        Raises:
            EngineBusyError: it is there and does not answer.
        """
        try:
            with time_limit(HEALTH_S):
                return self._http.send_to_any("POST", "/v1/shutdown").is_success
        except LostError:
            return False

    def stop(self) -> Ending:
        """Return how the engine ended, after it has; one that does not answer is killed.

        Raises:
            EngineError: it is on another machine and does not answer, or it cannot be killed.
        """
        if self._url:
            return "exited" if self.shutdown() else "none"
        try:
            requested = self.shutdown()
        # It is stuck: its lock says which process to end.
        except EngineBusyError:
            requested = False
        return end_holder(self._plan.places.lock, requested=requested)

    @property
    def _place(self) -> str:
        if self._url:
            return self._url
        with suppress(UnsafePathError):
            return str(read_endpoint(self._plan.places))
        return str(self._plan.places.folder)

    def _info(self, checkpoint: str | None, limit_s: float) -> EngineInfo | None:
        params = {"checkpoint": checkpoint, "root": self._roots} if checkpoint else {}
        try:
            with time_limit(limit_s):
                try:
                    response = self._http.send("GET", "/v1/health", params=params)
                # Its health is asked for all the same, to say which version it is and whether it
                # works.
                except OtherEngineError:
                    response = self._http.send_to_any("GET", "/v1/health")
        except LostError:
            return None
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        return info_of(response, self._place)

    def _start(self, waiting: Callable[[float], None] | None) -> EngineInfo | None:
        """Return the info of an engine started here, or by somebody else meanwhile."""
        if self._url:
            message = (
                f"no engine answers at LINGSHU_ENGINE_URL={self._url!r}: start it there with "
                "`lingshu engine`, or unset the variable to use an engine of this machine"
            )
            raise EngineError(message)

        def info() -> EngineInfo | None:
            with suppress(EngineBusyError):
                return self._info(None, HEALTH_S)
            return None

        plan, begin = self._plan, time.monotonic()
        limit_s = remaining(plan.timeout_s)
        # An earlier call gave up waiting: its engine may still be starting.
        started = self._started
        if started is not None and started.starter == os.getpid() and not started.ended:
            return self._answered(info, started, limit_s, waiting)
        with turn_to_start(plan.places, info, limit_s, waiting) as other:
            if other is not None:
                return other
            started = start_detached(plan.places, plan.arguments, plan.environ)
            # Waiting for the turn counts.
            left_s = limit_s - (time.monotonic() - begin)
            return self._answered(info, started, left_s, waiting)

    def _answered(
        self,
        info: Callable[[], EngineInfo | None],
        started: Started,
        limit_s: float,
        waiting: Callable[[float], None] | None,
    ) -> EngineInfo | None:
        # One that does not answer in time is waited for again by the next call.
        self._started = started
        answer = wait_until(info, started, limit_s, waiting)
        self._started = None
        return answer

    def _is_ours(self, info: EngineInfo) -> bool:
        # Across machines the protocol alone has to fit.
        same = self._url is not None or info.version == __version__
        return same and info.protocol == PROTOCOL

    def _replace(self, other: EngineInfo) -> None:
        """Return when an idle engine of another version has exited.

        Raises:
            EngineBusyError: it is at work, or did not exit.
            EngineError: it is on another machine.
        """
        who = (
            f"an engine of lingshu {other.version} (protocol {other.protocol}, pid {other.pid}) "
            f"answers at {self._place}, and this is lingshu {__version__} "
            f"(protocol {PROTOCOL})"
        )
        if self._url:
            message = f"{who}: install the same version on both machines"
            raise EngineError(message)
        if other.queued or other.running:
            message = (
                f"{who}. It is at work on {other.queued + other.running} arms for others and is "
                "replaced when they are done. `lingshu engine stop` ends it now; its experiments "
                "are taken up again when next asked for"
            )
            raise EngineBusyError(message)
        self.shutdown()
        end = time.monotonic() + remaining(_LEAVING_S)
        while time.monotonic() < end:
            now = self._info(None, HEALTH_S)
            # Gone, or another one has taken its place.
            if now is None or now.pid != other.pid:
                return
            time.sleep(_POLL_S)
        message = f"{who}. It was told to exit and has not: `lingshu engine stop` ends it"
        raise EngineBusyError(message)

"""The client of the engine: find it, start it detached, ask it for cells.

The engine is a process of its own, shared by every server, shell and notebook with the same home.
A client that finds none starts one; a client whose engine was killed starts another and asks
again, which costs nothing for arms that had finished. Knows nothing of torch, ledgers or tools.
"""

import hashlib
import math
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Protocol, Self
from urllib.parse import quote

import httpx

from lingshu_model.wire import (
    ArmRequest,
    Cells,
    EngineInfo,
    JobView,
    QueuedJob,
    Requester,
    decode_cells,
)
from lingshu_model.wire.canonical import HASH_PREFIX
from lingshu_model.wire.places import EnginePlaces
from lingshu_model.wire.private import UnsafePathError, private_folder
from lingshu_tools.deadline import remaining
from lingshu_tools.engine_start import start_detached, wait_until
from lingshu_tools.engine_transport import LocalTransport
from lingshu_tools.errors import EngineError, InputError, NotFoundError

MAX_WAIT_S = 45.0
_REMEMBERED = 4096
_ANSWER_S = 120.0
"""How long an engine may take to answer: on starved cores 30 s were not enough."""
_WITHDRAW_S = 2.0
_PLAIN = " !#$&'()*+,/:;=?@[]"
_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_FORGOTTEN = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class _Submission:
    """What a job was submitted with, to be submitted again where an engine was lost."""

    arm: ArmRequest
    fresh: str | None
    requester: Requester


class _LostError(EngineError):
    """No engine answered, or the one that did ended meanwhile."""


class CellSource(Protocol):
    """What the tools need of an engine; `Engine` and `testing.FakeEngine` are two."""

    def ensure(self) -> EngineInfo:
        """Return the engine's info, started if need be."""
        ...

    def info(self, checkpoint: str | None = None) -> EngineInfo | None:
        """Return the engine's info, or None if none runs."""
        ...

    def submit(
        self, arm: ArmRequest, *, fresh: str | None = None, requester: Requester | None = None
    ) -> JobView:
        """Return the job that computes `arm`; anew, once for each name `fresh`."""
        ...

    def wait(self, job_id: str, wait_s: float) -> JobView:
        """Return the job after at most `wait_s` seconds."""
        ...

    def cells(self, job_id: str) -> Cells:
        """Return the cells of a job that succeeded."""
        ...

    def cancel(self, job_id: str) -> JobView:
        """Return the job after cancelling it."""
        ...

    def withdraw(self, experiments: Sequence[str]) -> int:
        """Return how many jobs ended because these experiments want nothing any more."""
        ...


class Engine:
    """The engine of one home, started when first needed.

    Usable from several threads. `LINGSHU_ENGINE_URL` and `LINGSHU_ENGINE_TOKEN` name an engine
    elsewhere instead, which is never started from here.
    """

    def __init__(
        self,
        home: Path,
        *,
        principal: str = "local",
        arguments: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        start_timeout_s: float = 300.0,
    ) -> None:
        """Prepare; nothing is contacted or started yet.

        Args:
            home: the folder that holds `engines/`.
            principal: whose jobs these are; jobs of one principal are not shown to another.
            arguments: further arguments for an engine started from here.
            environ: the environment to read and to start with; `os.environ` by default.
            start_timeout_s: seconds a started engine may take until it answers.
        """
        self.places = EnginePlaces(Path(home))
        self._environ = dict(os.environ if environ is None else environ)
        self._url = self._environ.get("LINGSHU_ENGINE_URL")
        self._arguments = arguments
        self._start_timeout_s = start_timeout_s
        self._starting = threading.Lock()
        self._submissions: OrderedDict[str, _Submission] = OrderedDict()
        self._principal = principal
        self._http = self._client(principal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the engine lives on."""
        self._http.close()

    def info(self, checkpoint: str | None = None) -> EngineInfo | None:
        """Return what the engine says of itself, or None if none runs; never starts one.

        With `checkpoint`, the numerics profile is that checkpoint's.
        """
        params = {"checkpoint": checkpoint} if checkpoint else {}
        try:
            response = self._send("GET", "/v1/health", params=params)
        except _LostError:
            return None
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        return EngineInfo.model_validate(_checked(response).json())

    def ensure(self, waiting: Callable[[float], None] | None = None) -> EngineInfo:
        """Return the running engine's info, after starting one if there was none.

        `waiting` is called with the seconds waited so far while an engine starts.

        Raises:
            EngineError: it cannot be started; the last lines of its log are in the message.
        """
        with self._starting:
            found = self.info()
            if found is not None:
                return found
            if self._url:
                message = (
                    f"no engine answers at LINGSHU_ENGINE_URL={self._url!r}: start it there with "
                    "`lingshu engine`, or unset the variable to use an engine of this machine"
                )
                raise EngineError(message)
            started = start_detached(self.places, self._arguments, self._environ)
            return wait_until(self.info, started, self._start_timeout_s, waiting)

    def submit(
        self, arm: ArmRequest, *, fresh: str | None = None, requester: Requester | None = None
    ) -> JobView:
        """Return the job that computes `arm`; an equal arm gives the same job.

        Args:
            arm: the cells.
            fresh: a replay proves nothing if it is answered from results on disk: with `fresh`,
                the arm is computed anew, once for each such name.
            requester: on whose behalf; by default this client's principal, for no experiment. An
                experiment that was withdrawn gets a job that is cancelled.

        Raises:
            InputError: the checkpoint cannot do this arm; the message says what it can.
            EngineError: no engine could be reached or started.
        """
        asked = _Submission(arm, fresh, requester or Requester(principal=self._principal))
        view = JobView.model_validate(_checked(self._post(asked)).json())
        self._submissions[view.job_id] = asked
        while len(self._submissions) > _REMEMBERED:
            self._submissions.popitem(last=False)
        return view

    def wait(self, job_id: str, wait_s: float) -> JobView:
        """Return the job when it has ended, or as it stands after `wait_s` (0 to 45) seconds.

        An engine that was killed meanwhile is started again and given the arm once more.
        """
        if not (math.isfinite(wait_s) and 0 <= wait_s <= MAX_WAIT_S):
            message = (
                f"wait_s is {wait_s!r}: from 0 to {MAX_WAIT_S:g} seconds; call again to wait on"
            )
            raise InputError(message)
        timeout = httpx.Timeout(_ANSWER_S, read=wait_s + _ANSWER_S)
        response = self._ask(job_id, "", params={"wait_s": wait_s}, timeout=timeout)
        return JobView.model_validate(response.json())

    def cells(self, job_id: str) -> Cells:
        """Return the cells of a job that succeeded, checked against the digest sent with them.

        Raises:
            EngineError: the job has not succeeded, or the bytes were damaged on the way.
        """
        timeout = httpx.Timeout(_ANSWER_S, read=300.0)
        with suppress(_LostError):  # killed while it sent: another has the result on its disk
            return self._received(job_id, self._ask(job_id, "/cells", stream=True, timeout=timeout))
        return self._received(job_id, self._ask(job_id, "/cells", stream=True, timeout=timeout))

    def cancel(self, job_id: str) -> JobView:
        """Return the job after cancelling it; it stops between two sampler steps.

        A job that no engine knows is cancelled already, and no engine is started for it.
        """
        try:
            headers = self._headers(job_id)
            response = self._send("DELETE", f"/v1/jobs/{job_id}", headers=headers)
        except _LostError:
            response = None
        if response is None or response.status_code == HTTPStatus.NOT_FOUND:
            known = self._submissions.get(job_id)
            total = known.arm.n_cells if known else 0
            return JobView(job_id=job_id, state="cancelled", done=0, total=total)
        return JobView.model_validate(_checked(response).json())

    def withdraw(self, experiments: Sequence[str]) -> int:
        """Return how many jobs ended because these experiments want nothing any more.

        A job that another experiment waits for goes on. The engine queues nothing for a withdrawn
        experiment later. Where no engine runs, nothing is queued, and none is started.

        Raises:
            EngineError: there is an engine and it does not answer.
        """
        wait_s = remaining(_WITHDRAW_S)
        try:
            response = self._send("POST", "/v1/withdraw", json=list(experiments), timeout=wait_s)
        except _LostError:
            return 0
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return 0
        return int(_checked(response).json()["ended"])

    def unfinished(self, principal: str | None = None) -> list[QueuedJob]:
        """Return a principal's queued and running jobs, by default this client's principal's.

        Raises:
            EngineError: there is an engine and it does not answer.
        """
        headers = _requester_headers(Requester(principal=principal or self._principal))
        try:
            response = self._send("GET", "/v1/jobs", headers=headers, timeout=remaining(_ANSWER_S))
        except _LostError:
            return []
        return [QueuedJob.model_validate(job) for job in _checked(response).json()]

    def shutdown(self) -> bool:
        """Return whether an engine was there to be told to exit; running jobs are dropped."""
        try:
            return self._send("POST", "/v1/shutdown").is_success
        except _LostError:
            return False

    def _received(self, job_id: str, response: httpx.Response) -> Cells:
        """Return the cells of a response, which lie in a file without a name from now on."""
        folder = self.places.folder
        try:
            with closing(response):
                private_folder(folder)
                with tempfile.TemporaryFile(dir=folder) as file:
                    found = self._copied(response, file)
                    sent = response.headers.get("X-Lingshu-Digest")
                    if sent != found:
                        message = f"the cells of job {job_id} are {found}, not {sent}: ask again"
                        raise EngineError(message)
                    return decode_cells(file)
        except OSError as error:
            message = (
                f"the cells of job {job_id} cannot be kept in {folder} ({error}): free some space "
                "and call again"
            )
            raise EngineError(message) from error

    def _copied(self, response: httpx.Response, file: IO[bytes]) -> str:
        digest = hashlib.sha256()
        with self._connected():
            for piece in response.iter_bytes():
                digest.update(piece)
                file.write(piece)
        file.flush()
        return HASH_PREFIX + digest.hexdigest()

    def _client(self, principal: str) -> httpx.Client:
        headers = _requester_headers(Requester(principal=principal))
        if self._url:
            headers["Authorization"] = f"Bearer {self._environ.get('LINGSHU_ENGINE_TOKEN', '')}"
            return httpx.Client(base_url=self._url, headers=headers, timeout=_ANSWER_S)
        transport = LocalTransport(self.places)
        return httpx.Client(
            transport=transport, base_url="http://engine", headers=headers, timeout=_ANSWER_S
        )

    def _post(self, asked: "_Submission") -> httpx.Response:
        sent: dict[str, Any] = {"json": asked.arm.model_dump(mode="json")}
        sent["headers"] = _requester_headers(asked.requester)
        if asked.fresh:
            sent["headers"]["X-Lingshu-Fresh"] = asked.fresh
        with suppress(_LostError):
            response = self._send("POST", "/v1/jobs", **sent)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                return response
        self.ensure()
        return self._send("POST", "/v1/jobs", **sent)

    def _headers(self, job_id: str) -> dict[str, str]:
        """Return what names the principal of a job."""
        known = self._submissions.get(job_id)
        return _requester_headers(
            known.requester if known else Requester(principal=self._principal)
        )

    def _ask(
        self, job_id: str, suffix: str, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """GET something of a job; once, resubmit its arm to an engine that lost or forgot it."""
        path = f"/v1/jobs/{job_id}{suffix}"
        options["headers"] = self._headers(job_id)
        with suppress(_LostError):
            response = self._send("GET", path, stream=stream, **options)
            if response.status_code not in _FORGOTTEN:
                return _checked(response)
            response.close()
        if job_id not in self._submissions:
            message = f"the engine does not know job {job_id!r}: submit its arm (again) first"
            raise EngineError(message)
        lost = self._submissions[job_id]
        self.submit(lost.arm, fresh=lost.fresh, requester=lost.requester)
        return _checked(self._send("GET", path, stream=stream, **options))

    def _send(
        self, method: str, path: str, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Return the answer; of a stream, the body is still to come."""
        with self._connected():
            request = self._http.build_request(method, path, **options)
            return self._http.send(request, stream=stream)

    @contextmanager
    def _connected(self) -> Generator[None]:
        try:
            yield
        except UnsafePathError as error:
            message = f"no engine of this user was reached: {error}"
            raise _LostError(message) from error
        except _BROKEN as error:
            message = f"the engine is gone ({error}): call again to start another"
            raise _LostError(message) from error
        except httpx.HTTPError as error:
            message = f"the engine does not answer ({error!r}): see {self.places.log}"
            raise EngineError(message) from error


def _requester_headers(requester: Requester) -> dict[str, str]:
    fields = {
        "X-Lingshu-Principal": requester.principal,
        "X-Lingshu-Experiment": requester.experiment,
        "X-Lingshu-Group": requester.group,
    }
    # A header holds ASCII alone, and a principal's name may be in any script.
    return {name: quote(value, safe=_PLAIN) for name, value in fields.items() if value}


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    response.read()
    try:
        text = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = f"the engine answered {response.status_code}: {response.text[:200]!r}"
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundError(text)
    if response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        raise InputError(text)
    raise EngineError(text)

"""The client of the engine: find it, start it detached, ask it for cells.

The engine is a process of its own, shared by every server, shell and notebook with the same home.
A client that finds none starts one; a client whose engine was killed starts another and asks
again, which costs nothing for arms that had finished.

Every answer is bound to its request: a job's view and the header of its cells repeat the digest of
the arm, and what belongs to another arm is refused before anything is made of it.
"""

import hashlib
import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import httpx

from lingshu_model.contracts import (
    ArmRequest,
    Cells,
    EngineInfo,
    JobRequest,
    JobView,
    QueuedJob,
    Requester,
)
from lingshu_model.contracts.canonical import HASH_PREFIX
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import private_folder
from lingshu_tools.engine_client.answers import (
    cells_of_request,
    checked,
    requester_headers,
    view_of,
)
from lingshu_tools.engine_client.ending import Ending
from lingshu_tools.engine_client.http import Connection, LostError, OtherEngineError
from lingshu_tools.engine_client.process import EngineProcess, Start
from lingshu_tools.engine_client.transport import LocalTransport
from lingshu_tools.errors import (
    CellsGoneError,
    EngineBusyError,
    EngineError,
    ForeignAnswerError,
    InputError,
)
from lingshu_tools.system.deadline import time_limit

T = TypeVar("T")

# The longest wait of a tool.
MAX_WAIT_S = 45.0
# Submissions kept for another try; older ones can be submitted again by their experiments.
_REMEMBERED = 4096
# Cancelling answers soon, even where the engine does not.
_WITHDRAW_S = 2.0
# No such job, its cells are gone, or the engine is about to exit.
_FORGOTTEN = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class _Submission:
    """What a job was submitted with, to be submitted again where an engine was lost."""

    job: JobRequest
    requester: Requester


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
        roots: Sequence[Path] = (),
    ) -> None:
        """Prepare; nothing is contacted or started yet.

        Args:
            home: the folder that holds `engines/`.
            principal: whose jobs these are; jobs of one principal are not shown to another.
            arguments: further arguments for an engine started from here.
            environ: the environment to read and to start with; `os.environ` by default.
            start_timeout_s: seconds a started engine may take until it answers.
            roots: the folders in which this process finds checkpoints.
        """
        self.places = EnginePlaces(Path(home))
        self._environ = dict(os.environ if environ is None else environ)
        self._url = self._environ.get("LINGSHU_ENGINE_URL")
        self._principal = principal
        # Folders of this machine say nothing to an engine elsewhere.
        self._roots = () if self._url else tuple(str(root.absolute()) for root in roots)
        self._submissions: OrderedDict[str, _Submission] = OrderedDict()
        self._http = Connection(self._client, self.places.log, same_version=not self._url)
        start = Start(self.places, arguments, self._environ, start_timeout_s)
        self._process = EngineProcess(self._http, start, self._url, self._roots)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the engine lives on."""
        self._http.close()

    @property
    def remote(self) -> bool:
        """Whether the engine is one that `LINGSHU_ENGINE_URL` names."""
        return bool(self._url)

    def info(self, checkpoint: str | None = None) -> EngineInfo | None:
        """Return what the engine says of itself, or None if none runs; never starts one.

        The engine may be of another version. With `checkpoint`, a name, the numerics profile is
        that checkpoint's, which is loaded if need be; else that of one that is loaded, if any is.

        Raises:
            EngineBusyError: it is there and does not answer within 2 s.
        """
        return self._process.info(checkpoint)

    def ensure(self, waiting: Callable[[float], None] | None = None) -> EngineInfo:
        """Return the running engine's info, after starting one if there was none.

        An idle engine of another version is told to exit, and replaced. `waiting` is called with
        the seconds waited so far while an engine starts.

        Raises:
            EngineBusyError: one of another version is at work, or it does not answer.
            EngineError: it cannot be started; the last lines of its log are in the message.
        """
        return self._process.ensure(waiting)

    def submit(
        self,
        arm: ArmRequest,
        *,
        fresh: str | None = None,
        requester: Requester | None = None,
        allow_unfit: bool = False,
    ) -> JobView:
        """Return the job that computes `arm`; an equal arm gives the same job.

        Args:
            arm: the cells.
            fresh: a replay proves nothing if it is answered from results on disk: with `fresh`,
                the arm is computed anew, once for each such name.
            requester: on whose behalf; by default this client's principal, for no experiment. An
                experiment that was withdrawn gets a job that is cancelled.
            allow_unfit: whether a condition may have failed its fitness check.

        Raises:
            InputError: the checkpoint cannot do this arm; the message says what it can.
            EngineBusyError: the engine cannot be used now.
            EngineError: no engine could be reached or started.
        """
        job = JobRequest(arm=arm, fresh=fresh or "", roots=self._roots, allow_unfit=allow_unfit)
        submission = _Submission(job, requester or Requester(principal=self._principal))
        view = self._again(lambda: view_of(self._post(submission), job))
        # Kept by job, so that a lost engine can be given the very same arm again.
        self._submissions[view.job_id] = submission
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

        def ask() -> JobView:
            response = self._get(job_id, "", wait_s=wait_s, params={"wait_s": wait_s})
            if response is None:
                self._resubmit(job_id)
                response = self._get(job_id, "", wait_s=wait_s, params={"wait_s": wait_s})
            if response is None:
                message = f"the engine forgot job {job_id!r} at once: call again"
                raise EngineBusyError(message)
            return view_of(response, self._job(job_id), job_id)

        return self._again(ask)

    def cells(self, job_id: str) -> Cells:
        """Return the cells of a job that succeeded, with their origin: its arm, and the profile.

        Raises:
            CellsGoneError: the engine no longer has them; where the arm is known, it is submitted
                again.
            ForeignAnswerError: what came is damaged or another arm's, again and again.
            EngineError: the job has not succeeded.
        """

        def ask() -> Cells:
            wanted = self._job(job_id)
            if wanted is None:
                message = f"job {job_id!r} was not submitted here: submit its arm (again) first"
                raise CellsGoneError(message)
            with suppress(LostError):  # killed while it sent: another has the result on its disk
                response = self._get(job_id, "/cells", stream=True)
                if response is not None:
                    return self._received(wanted.arm, response)
            # An equal arm that has finished is answered from disk: it succeeds at once.
            state = self._resubmit(job_id).state
            response = self._get(job_id, "/cells", stream=True) if state == "succeeded" else None
            if response is None:
                message = f"the cells of job {job_id} are no longer kept; it is {state} again"
                raise CellsGoneError(message)
            return self._received(wanted.arm, response)

        return self._again(ask)

    def cancel(self, job_id: str) -> JobView:
        """Return the job after cancelling it; it stops between two sampler steps.

        A job that no engine knows is cancelled already, and no engine is started for it.
        """
        wanted, headers = self._job(job_id), self._headers(job_id)

        def ask() -> JobView:
            with suppress(LostError, OtherEngineError):
                response = self._http.send("DELETE", f"/v1/jobs/{job_id}", headers=headers)
                if response.status_code != HTTPStatus.NOT_FOUND:
                    return view_of(checked(response), wanted, job_id)
            # Made up here, as no engine can tell: what the job was is known from its submission.
            request, total = (wanted.arm.digest, wanted.arm.n_cells) if wanted else ("", 0)
            return JobView(job_id=job_id, request=request, state="cancelled", done=0, total=total)

        return self._again(ask)

    def withdraw(self, experiments: Sequence[str]) -> int:
        """Return how many jobs ended because these experiments want nothing any more.

        A job that another experiment waits for goes on. The engine queues nothing for a withdrawn
        experiment later. Where no engine of this version runs, nothing is queued, and none is
        started.

        Raises:
            EngineError: there is an engine and it does not answer.
        """
        try:
            with time_limit(_WITHDRAW_S):
                response = self._http.send("POST", "/v1/withdraw", json=list(experiments))
        except (LostError, OtherEngineError):
            return 0
        # An engine on its way out drops its queue.
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return 0
        return int(checked(response).json()["ended"])

    def unfinished(self, principal: str | None = None) -> list[QueuedJob]:
        """Return a principal's queued and running jobs, by default this client's principal's.

        Raises:
            EngineError: there is an engine and it does not answer.
        """
        headers = requester_headers(Requester(principal=principal or self._principal))
        try:
            response = self._http.send("GET", "/v1/jobs", headers=headers)
        except (LostError, OtherEngineError):
            return []
        return [QueuedJob.model_validate(job) for job in checked(response).json()]

    def shutdown(self) -> bool:
        """Return whether an engine, of whatever version, was there to be told to exit.

        Running jobs are dropped.
        """
        return self._process.shutdown()

    def stop(self) -> Ending:
        """Return how the engine of this home ended, after it has: told, or killed if it is stuck.

        Raises:
            EngineError: it is on another machine and does not answer, or it cannot be killed.
        """
        return self._process.stop()

    def _again(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns; once more where it was answered for another request."""
        try:
            return ask()
        except ForeignAnswerError:
            return ask()

    def _received(self, arm: ArmRequest, response: httpx.Response) -> Cells:
        """Return the cells of a response, which lie in a file without a name from now on."""
        folder = self.places.folder
        try:
            with closing(response):
                private_folder(folder)
                # On the disk of the home: cells may be larger than memory, and than a small /tmp.
                with tempfile.TemporaryFile(dir=folder) as file:
                    # The digest of what arrived.
                    cells = self._copied(response, file)
                    sent = response.headers.get("X-Lingshu-Digest")
                    if sent != cells:
                        message = f"cells came as {cells} and were sent as {sent}: ask again"
                        raise ForeignAnswerError(message)
                    return cells_of_request(file, arm)
        except OSError as error:
            message = (
                f"the cells of {arm.digest} cannot be kept in {folder} ({error}): free some space "
                "and call again"
            )
            raise EngineError(message) from error

    def _copied(self, response: httpx.Response, file: IO[bytes]) -> str:
        digest = hashlib.sha256()
        with self._http.receiving():
            for piece in response.iter_bytes():
                digest.update(piece)
                file.write(piece)
        file.flush()
        return HASH_PREFIX + digest.hexdigest()

    def _client(self, limits: httpx.Limits) -> httpx.Client:
        headers = requester_headers(Requester(principal=self._principal))
        if self._url:
            if token := self._environ.get("LINGSHU_ENGINE_TOKEN"):
                headers["Authorization"] = f"Bearer {token}"
            return httpx.Client(base_url=self._url, headers=headers, limits=limits)
        transport = LocalTransport(self.places, limits)
        return httpx.Client(transport=transport, base_url="http://engine", headers=headers)

    def _post(self, submission: "_Submission") -> httpx.Response:
        job = submission.job
        # Only where it is set, so that an engine without this field will do.
        unused = None if job.arm.mixture else {"arm": {"mixture"}}
        body = job.model_dump(mode="json", exclude=unused)
        headers = requester_headers(submission.requester)
        with suppress(LostError, OtherEngineError):
            response = self._http.send("POST", "/v1/jobs", json=body, headers=headers)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                return checked(response)
        # Lost, of another version, or about to exit: the arm is sent to the next engine, once.
        self._process.ensure()
        return checked(self._http.send("POST", "/v1/jobs", json=body, headers=headers))

    def _resubmit(self, job_id: str) -> JobView:
        if job_id not in self._submissions:
            message = f"the engine does not know job {job_id!r}: submit its arm (again) first"
            raise CellsGoneError(message)
        lost = self._submissions[job_id]
        return self.submit(
            lost.job.arm,
            fresh=lost.job.fresh,
            requester=lost.requester,
            allow_unfit=lost.job.allow_unfit,
        )

    def _job(self, job_id: str) -> JobRequest | None:
        known = self._submissions.get(job_id)
        return known and known.job

    def _headers(self, job_id: str) -> dict[str, str]:
        """Return what names the principal of a job."""
        known = self._submissions.get(job_id)
        mine = Requester(principal=self._principal)
        return requester_headers(known.requester if known else mine)

    def _get(
        self, job_id: str, suffix: str, *, stream: bool = False, wait_s: float = 0.0, **options: Any
    ) -> httpx.Response | None:
        """GET something of a job; None where no engine of this version knows it."""
        options["headers"] = self._headers(job_id)
        try:
            response = self._http.send(
                "GET", f"/v1/jobs/{job_id}{suffix}", stream=stream, wait_s=wait_s, **options
            )
        except (LostError, OtherEngineError):
            return None
        if response.status_code in _FORGOTTEN:
            response.close()
            return None
        return checked(response)

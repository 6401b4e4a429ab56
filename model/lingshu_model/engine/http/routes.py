"""The engine's HTTP routes: arms in, job views and cells out.

Every answer says which call it answers, in headers that `envelope` adds; a request of another
protocol is refused with the command that ends this engine.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lingshu_model import __version__
from lingshu_model.contracts import (
    PROTOCOL,
    Checkpoint,
    CheckpointError,
    EngineInfo,
    JobRequest,
    Requester,
    digest_json,
)
from lingshu_model.contracts.messages import CALL_HEADER, PROTOCOL_HEADER, VERSION_HEADER
from lingshu_model.engine.http.requests import BadRequestError, check_arm
from lingshu_model.engine.job_queue import ClosedError, FullError, JobQueue
from lingshu_model.engine.samplers import Loaded, Samplers
from lingshu_model.engine.work import Job

# Bytes of a request, and of a piece of an answer.
MAX_BODY = 4 << 20
PIECE = 1 << 20
# Seconds that one request for a job may wait for its end.
MAX_WAIT_S = 45.0
HEALTH = "/v1/health"
SHUTDOWN = "/v1/shutdown"
_EXPERIMENTS = TypeAdapter(list[str])
_LOCAL = "lingshu.local"


@dataclass
class Face:
    """The routes' shared state: the queue, the samplers, and whether the engine is leaving."""

    queue: JobQueue
    samplers: Samplers
    ranks: int
    idle_exit_s: float
    leave: Callable[[], None]
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self, *, local: bool) -> ASGIApp:
        """Return the ASGI application; `local` if its clients are of this machine and user."""
        routes = Starlette(
            routes=[
                Route(HEALTH, self._health),
                Route("/v1/jobs", self._submit, methods=["POST"]),
                Route("/v1/jobs", self._jobs),
                Route("/v1/withdraw", self._withdraw, methods=["POST"]),
                Route("/v1/jobs/{job_id}", self._job),
                Route("/v1/jobs/{job_id}", self._cancel, methods=["DELETE"]),
                Route("/v1/jobs/{job_id}/cells", self._cells),
                Route(SHUTDOWN, self._shutdown, methods=["POST"]),
            ],
            exception_handlers={
                BadRequestError: _refused,
                ClosedError: _closed,
                FullError: _full,
                Exception: _unexpected,
            },
        )
        # Outermost, so that errors carry the headers too.
        return Envelope(routes, local=local)

    async def _health(self, request: Request) -> Response:
        if self.leaving.is_set():
            return _error("the engine is leaving", 503)
        loaded = await self._asked_for(request)
        queued, running = self.queue.counts()
        profile = loaded.profile if loaded else {}
        info = EngineInfo(
            protocol=PROTOCOL,
            version=__version__,
            pid=os.getpid(),
            ranks=self.ranks,
            profile=profile,
            profile_digest=digest_json(profile),
            # Reads files; the event loop must not wait for a disk.
            checkpoints=await asyncio.to_thread(self.samplers.catalogue.digests),
            queued=queued,
            running=running,
            idle_exit_s=self.idle_exit_s,
        )
        return JSONResponse(info.model_dump(mode="json"))

    async def _asked_for(self, request: Request) -> Loaded | None:
        """Return the sampler of a named checkpoint; one that is in memory where none is named."""
        name = request.query_params.get("checkpoint")
        if name is None:
            return self.samplers.any()
        roots = _roots(request, request.query_params.getlist("root"))
        return await self._loaded(lambda: self.samplers.named(name, roots), 404)

    async def _submit(self, request: Request) -> Response:
        wanted = _parse(await _body(request))
        arm, roots = wanted.arm, _roots(request, wanted.roots)
        name, digest = arm.checkpoint, arm.checkpoint_digest

        def find() -> Checkpoint:
            checkpoint = self.samplers.find(name, digest, roots)
            allow, store = wanted.allow_unfit, self.samplers.user_cells
            # In a thread too: it reads tables of the checkpoint at first use.
            check_arm(arm, checkpoint, allow_unfit=allow, store=store)
            return checkpoint

        loaded = await self._loaded(find, 422)
        job = await asyncio.to_thread(
            self.queue.submit,
            _requester(request),
            arm,
            loaded.profile_digest,
            loaded.sampler.tile,
            wanted.fresh,
        )
        return self._view(job)

    async def _jobs(self, request: Request) -> Response:
        jobs = await asyncio.to_thread(self.queue.unfinished, _principal(request))
        return JSONResponse([job.model_dump(mode="json") for job in jobs])

    async def _withdraw(self, request: Request) -> Response:
        experiments = _experiments(await _body(request))
        ended = await asyncio.to_thread(self.queue.withdraw, experiments)
        return JSONResponse({"ended": ended})

    async def _job(self, request: Request) -> Response:
        wait_s = _wait_s(request)
        job = self._find(request)
        if wait_s and not job.ended.done():
            await self._wait(job, wait_s)
        if not job.ended.done() and self.leaving.is_set():
            return _error("the engine is leaving: start another and ask again", 503)
        return self._view(job)

    async def _cancel(self, request: Request) -> Response:
        job = self._find(request)
        await asyncio.to_thread(self.queue.cancel, job)
        return self._view(job)

    async def _cells(self, request: Request) -> Response:
        # One view: the state may change between two.
        view = (job := self._find(request)).view()
        if view.state != "succeeded":
            message = f"job {job.id} is {view.state} at {view.done} of {view.total} cells"
            return _error(f"{message}: its cells are there once it has succeeded", 409)
        result = await asyncio.to_thread(self.queue.results.open, job.work.key, job.work.origin)
        if result is None:
            return _error(f"the cells of job {job.id} are no longer kept: submit it again", 410)
        headers = {"X-Lingshu-Digest": result.digest, "Content-Length": str(result.size)}
        pieces = _pieces(result.file)
        # In pieces: a result may be larger than memory.
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    def _view(self, job: Job) -> Response:
        view = job.view().model_copy(update={"version": __version__})
        if view.state == "succeeded" and view.profile_digest:
            profile = self.samplers.profile(view.profile_digest)
            view = view.model_copy(update={"profile": profile})
        return JSONResponse(view.model_dump(mode="json"))

    async def _shutdown(self, _: Request) -> Response:
        self.leave()
        return JSONResponse({"leaving": True})

    async def _loaded(self, find: Callable[[], Checkpoint], status: int) -> Loaded:
        """Return the sampler of what `find` finds, loaded if need be by the computing thread."""
        try:
            checkpoint = await asyncio.to_thread(find)
            there = self.samplers.there(checkpoint.digest)
            if there is not None:
                return there
            loading = self.queue.call(lambda: self.samplers.load(checkpoint))
            return await asyncio.wrap_future(loading)
        except CheckpointError as error:
            raise BadRequestError(str(error), status) from error

    async def _wait(self, job: Job, wait_s: float) -> None:
        leaving = asyncio.ensure_future(self.leaving.wait())
        # Not cancelled after the wait: that would cancel the job's future for every other caller.
        ended = asyncio.wrap_future(job.ended)
        await asyncio.wait({ended, leaving}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()

    def _find(self, request: Request) -> Job:
        job_id = request.path_params["job_id"]
        job = self.queue.job(job_id, _principal(request))
        if job is None:
            message = f"no job {job_id!r} of {_principal(request)!r} here: submit its arm (again)"
            raise BadRequestError(message, 404)
        return job


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    # Closed also when the client leaves in the middle.
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


class Envelope:
    """Adds to every answer the protocol, the version and the call it answers."""

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request of this protocol on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        said = {
            PROTOCOL_HEADER: str(PROTOCOL),
            VERSION_HEADER: __version__,
            CALL_HEADER: headers.get(CALL_HEADER, ""),
        }

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(said)
            await send(message)

        # A client of another version may ask who is there and end the engine, to replace it. The
        # earliest ones, which name no protocol, would not understand who is there.
        spoken, path = headers.get(PROTOCOL_HEADER), scope["path"]
        open_to_it = path == SHUTDOWN or (path == HEALTH and spoken is not None)
        # Over TCP the protocol alone must agree: the other machine installs its own version.
        version = headers.get(VERSION_HEADER, __version__) if self._local else __version__
        if (spoken, version) == (str(PROTOCOL), __version__) or open_to_it:
            await self._app({**scope, _LOCAL: self._local}, receive, answer)
        else:
            await _other_version(spoken, version)(scope, receive, answer)


def _other_version(protocol: str | None, version: str) -> Response:
    return _error(
        f"this engine is lingshu {__version__} (protocol {PROTOCOL}), and the request is of "
        f"lingshu {version[:40]!r} (protocol {(protocol or '1')[:20]!r}). `lingshu engine stop` "
        "ends this engine, and the next experiment starts one of the caller's version",
        426,
    )


def _parse(body: bytes) -> JobRequest:
    try:
        return JobRequest.model_validate_json(body)
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'body'} is {e['input']!r:.80}: {e['msg']}"
            for e in error.errors(include_url=False)
        )
        raise BadRequestError(where) from error


def _experiments(body: bytes) -> list[str]:
    try:
        return _EXPERIMENTS.validate_json(body)
    except ValidationError as error:
        message = 'the body must be a JSON list of experiment ids, such as ["exp_…"]'
        raise BadRequestError(message) from error


def _roots(request: Request, given: Sequence[str]) -> tuple[str, ...]:
    """Return a client's folders of checkpoints; those of another machine mean nothing here."""
    return tuple(r for r in given if Path(r).is_absolute()) if request.scope[_LOCAL] else ()


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            message = f"the request is longer than {MAX_BODY} bytes: ask for less at once"
            raise BadRequestError(message, 413)
    return bytes(body)


def _wait_s(request: Request) -> float:
    text = request.query_params.get("wait_s", "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_WAIT_S:
        message = f"wait_s is {text!r}: from 0 to {MAX_WAIT_S:g} seconds"
        raise BadRequestError(message)
    return value


def _principal(request: Request) -> str:
    return _header(request, "X-Lingshu-Principal", "local")


def _requester(request: Request) -> Requester:
    return Requester(
        principal=_principal(request),
        experiment=_header(request, "X-Lingshu-Experiment"),
        group=_header(request, "X-Lingshu-Group"),
    )


def _header(request: Request, name: str, default: str = "") -> str:
    # Percent-encoded by the client: a header holds ASCII alone.
    return unquote(request.headers.get(name, default))


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)


async def _refused(_: Request, error: Exception) -> Response:
    return _error(str(error), error.status if isinstance(error, BadRequestError) else 422)


async def _closed(_: Request, error: Exception) -> Response:
    return _error(str(error), 503)


async def _full(_: Request, error: Exception) -> Response:
    return _error(str(error), 429)


async def _unexpected(_: Request, error: Exception) -> Response:
    return _error(f"{type(error).__name__}: {error}; the engine's log has the details", 500)

"""The engine's HTTP face: arms in, job views and cells out.

Knows nothing of sockets, ranks or how long the engine lives.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lingshu_model import __version__
from lingshu_model.engine.job_queue import ClosedError, FullError, JobQueue
from lingshu_model.engine.requests import BadRequestError, check_arm
from lingshu_model.engine.samplers import Loaded, Samplers
from lingshu_model.engine.work import Job
from lingshu_model.wire import (
    ArmRequest,
    CheckpointError,
    EngineInfo,
    JobView,
    Requester,
    digest_json,
)

MAX_BODY = 4 << 20
PIECE = 1 << 20
MAX_WAIT_S = 45.0
_EXPERIMENTS = TypeAdapter(list[str])
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Face:
    """The routes' shared state: the queue, the samplers, and whether the engine is leaving."""

    queue: JobQueue
    samplers: Samplers
    ranks: int
    idle_exit_s: float
    leave: Callable[[], None]
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/health", self._health),
                Route("/v1/jobs", self._submit, methods=["POST"]),
                Route("/v1/jobs", self._jobs),
                Route("/v1/withdraw", self._withdraw, methods=["POST"]),
                Route("/v1/jobs/{job_id}", self._job),
                Route("/v1/jobs/{job_id}", self._cancel, methods=["DELETE"]),
                Route("/v1/jobs/{job_id}/cells", self._cells),
                Route("/v1/shutdown", self._shutdown, methods=["POST"]),
            ],
            exception_handlers={
                BadRequestError: _refused,
                ClosedError: _closed,
                FullError: _full,
                Exception: _unexpected,
            },
        )

    async def _health(self, request: Request) -> Response:
        if self.leaving.is_set():
            return _error("the engine is leaving", 503)
        names = self.samplers.catalogue.names()
        known = [*filter(self.samplers.there, names), *names]
        wanted = request.query_params.get("checkpoint") or next(iter(known), None)
        if wanted is not None and wanted not in names:
            message = f"no checkpoint {wanted!r}; there are {', '.join(names) or 'none'}"
            raise BadRequestError(message, 404)
        loaded = await self._loaded(wanted) if wanted else None
        queued, running = self.queue.counts()
        profile = loaded.profile if loaded else {}
        info = EngineInfo(
            version=__version__,
            pid=os.getpid(),
            ranks=self.ranks,
            profile=profile,
            profile_digest=digest_json(profile),
            checkpoints={name: self.samplers.catalogue.load(name).digest for name in names},
            queued=queued,
            running=running,
            idle_exit_s=self.idle_exit_s,
        )
        return JSONResponse(info.model_dump(mode="json"))

    async def _submit(self, request: Request) -> Response:
        arm = _parse(await _body(request))
        await asyncio.to_thread(check_arm, arm, self.samplers.catalogue)
        loaded = await self._loaded(arm.checkpoint)
        job = await asyncio.to_thread(
            self.queue.submit,
            _requester(request),
            arm,
            loaded.profile_digest,
            loaded.sampler.tile,
            request.headers.get("X-Lingshu-Fresh", ""),
        )
        return _view(job.view())

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
        return _view(job.view())

    async def _cancel(self, request: Request) -> Response:
        job = self._find(request)
        await asyncio.to_thread(self.queue.cancel, job)
        return _view(job.view())

    async def _cells(self, request: Request) -> Response:
        view = (job := self._find(request)).view()
        if view.state != "succeeded":
            message = f"job {job.id} is {view.state} at {view.done} of {view.total} cells"
            return _error(f"{message}: its cells are there once it has succeeded", 409)
        found = await asyncio.to_thread(self.queue.results.open, job.work.key)
        if found is None:
            return _error(f"the cells of job {job.id} are no longer kept: submit it again", 410)
        headers = {"X-Lingshu-Digest": found.digest, "Content-Length": str(found.size)}
        pieces = _pieces(found.file)
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    async def _shutdown(self, _: Request) -> Response:
        self.leave()
        return JSONResponse({"leaving": True})

    async def _loaded(self, name: str) -> Loaded:
        there = self.samplers.there(name)
        if there is not None:
            return there
        try:
            return await asyncio.wrap_future(self.queue.call(lambda: self.samplers.load(name)))
        except CheckpointError as error:
            raise BadRequestError(str(error), 409) from error

    async def _wait(self, job: Job, wait_s: float) -> None:
        leaving = asyncio.ensure_future(self.leaving.wait())
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
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


def _parse(body: bytes) -> ArmRequest:
    try:
        return ArmRequest.model_validate_json(body)
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


def _view(view: JobView) -> Response:
    return JSONResponse(view.model_dump(mode="json"))


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

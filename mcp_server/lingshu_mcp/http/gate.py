"""Which HTTP requests reach the SDK, as whom, and for how long.

/health   open to everybody; says only that the server answers
/metrics  with a token
/mcp      with a token: read in bounded time and size, checked, served in bounded time
/         a page without data, where the server has one
"""

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lingshu_mcp.calls import Calls
from lingshu_mcp.http.bodies import CLOSE, read_body, refusal
from lingshu_mcp.http.connections import MAX_HEAD
from lingshu_mcp.http.metrics import CONTENT_TYPE, Metrics
from lingshu_mcp.http.sessions import Session, Sessions
from lingshu_mcp.messages import UnreadableError, read_message
from lingshu_tools.app import App, Budget, PrincipalApp
from lingshu_tools.errors import LingshuError
from lingshu_tools.system.access_tokens import OWNER, Token

PATH: Final = "/mcp"
ANSWER_S: Final = 60.0
"""Seconds after which a request ends, answered or not; a tool call takes 48 at most."""
LISTEN_S: Final = 600.0
"""Seconds after which a subscription ends; its client opens another."""
# Seconds beyond a limit in which an answer under way may still be written.
_FLUSH_S: Final = 5.0
_SESSION = "mcp-session-id"
_VERSION = "mcp-protocol-version"
_BEARER = {"www-authenticate": 'Bearer realm="lingshu"'}
_UNKNOWN = {"www-authenticate": 'Bearer realm="lingshu", error="invalid_token"'}

caller: ContextVar[App] = ContextVar("lingshu_caller")
"""The application of the principal whose request is served."""


class Tokens(Protocol):
    """Who may call."""

    def all(self) -> Sequence[Token]:
        """Return every token that is accepted now."""
        ...

    def find(self, value: str) -> Token | None:
        """Return the token of this value, or None."""
        ...


@dataclass(eq=False)
class _Open:
    """A request being served; setting `gone` ends it as if its client had left."""

    name: str
    gone: anyio.Event = field(default_factory=anyio.Event)


class Gate:
    """The ASGI application in front of the SDK's."""

    def __init__(
        self,
        inner: ASGIApp,
        owner: App,
        calls: Calls,
        tokens: Tokens | None,
        security: TransportSecuritySettings,
        page: Callable[[], Response] | None = None,
    ) -> None:
        """Prepare.

        Args:
            inner: the SDK's application.
            owner: the application of the home's owner.
            calls: the calls of the server.
            tokens: who may call; None lets everybody in as the owner.
            security: the Host and Origin headers that are accepted.
            page: returns what `/` answers, to everybody; without data of the home.
        """
        self.last_call = time.monotonic()
        """When a request with a token came last, on the monotonic clock."""
        self._page = page
        self.sessions = Sessions()
        self.metrics = Metrics(calls, self.sessions)
        self.inner, self._owner, self._tokens = inner, owner, tokens
        self._security = TransportSecurityMiddleware(security)
        self._host = security.allowed_hosts[0].encode()
        self._apps: dict[str, App] = {}
        self._requests: set[_Open] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Counted here, so that refusals of the gate are counted too.
                self.metrics.responses[message["status"]] += 1
            await send(message)

        answer = await self._route(scope, receive, counted)
        if answer is not None:
            await answer(scope, receive, counted)

    async def tend(self) -> None:
        """End what is to end, and take down what is measured; to be called about once a second."""
        if self._tokens is not None:
            # A token that was revoked ends its open requests and sessions within a second.
            names = {token.name for token in self._tokens.all()}
            for request in [r for r in self._requests if r.name not in names]:
                request.gone.set()
            for session in self.sessions.of_others(names):
                await self._end(session)
        for session in self.sessions.expired():
            await self._end(session)
        self.metrics.note_cells(sum(app.runner.n_cells_sampled for app in self._apps.values()))

    @property
    def is_idle(self) -> bool:
        """Whether no request is open and no experiment of this process is at work."""
        return not self._requests and not any(app.runner.active for app in self._apps.values())

    def end_requests(self) -> None:
        """End every request that is still open, streams included."""
        for request in self._requests:
            request.gone.set()

    def app_of(self, principal: str) -> App:
        """Return the application of a principal that has called."""
        return self._apps[principal]

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> ASGIApp | None:
        """Return what answers a request, or None after answering it."""
        request, path = Request(scope, receive), scope["path"]
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
            # The parser's own limit is for a head that comes in pieces.
            return refusal(431, f"the headers are longer than {MAX_HEAD} bytes", headers=CLOSE)
        if path == "/health":
            return PlainTextResponse("ok\n")
        # The SDK checks the content type where it matters.
        if (refused := await self._security.validate_request(request)) is not None:
            return refused
        if path == "/" and self._page is not None:
            allowed = request.method in ("GET", "HEAD")
            return self._page() if allowed else refusal(405, "use GET", headers={"allow": "GET"})
        if path not in (PATH, "/metrics"):
            return self.inner
        # After Host and Origin: a foreign page learns nothing about tokens.
        token = self._identify(request)
        if not isinstance(token, Token):
            return token
        # Only of callers with a token: others must not keep an idle server alive.
        self.last_call = time.monotonic()
        app = self._app(token)
        # The context of this request's task, which the SDK's handlers inherit.
        caller.set(app)
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=token.name, scopes=[]))
        if path == "/metrics":
            apps = list(self._apps.values())
            text = await anyio.to_thread.run_sync(self.metrics.text, apps)
            return PlainTextResponse(text, media_type=CONTENT_TYPE)
        return await self._mcp(request, receive, send)

    def _identify(self, request: Request) -> Token | Response:
        """Return whose request it is, or the refusal."""
        if self._tokens is None:
            return _EVERYBODY
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not value.strip():
            message = (
                "a token is needed: send the header `Authorization: Bearer TOKEN`. The server "
                "named the file of its owner's token when it started"
            )
            return refusal(401, message, headers=_BEARER)
        try:
            token = self._tokens.find(value.strip())
        except LingshuError:
            # Not 401: the token may be good, and a client would throw it away.
            return refusal(503, "the server cannot read its tokens: its owner has to look")
        if token is None:
            message = "this token is unknown or was revoked: ask the server's owner for another"
            return refusal(401, message, headers=_UNKNOWN)
        return token

    def _app(self, token: Token) -> App:
        budget = Budget(max_calls=token.max_calls, max_cells=token.max_cells)
        app = self._apps.get(token.name)
        if app is None:
            app = self._apps[token.name] = PrincipalApp(self._owner, token.name, budget)
        # At each request, since a token's limits may have been changed.
        app.budget = budget
        return app

    async def _mcp(self, request: Request, receive: Receive, send: Send) -> ASGIApp | None:
        if request.method not in ("POST", "DELETE"):
            # Nothing is sent outside the answer to a request, so no stream is kept open for it.
            return refusal(405, "use POST", headers={"allow": "POST, DELETE"})
        # Read whole before the SDK gets it, which waits without limit.
        body = await read_body(request, receive)
        if not isinstance(body, bytes):
            return body
        limit_s = ANSWER_S
        if request.method == "POST":
            try:
                message = read_message(body.decode("utf-8", "replace"))
            except UnreadableError as error:
                return refusal(400, error.answer)
            method = getattr(message, "method", "")
            if method == "subscriptions/listen":
                limit_s = LISTEN_S
            if (refused := await self._free_session(request, method)) is not None:
                return refused
        await self._pass_on(request, body, limit_s, receive, send)
        return None

    async def _free_session(self, request: Request, method: str) -> Response | None:
        """Return why no session can be opened; None where one can, or none is asked for."""
        version = request.headers.get(_VERSION)
        opens = method == "initialize" and _SESSION not in request.headers
        # Only a handshake of the versions that have sessions opens one.
        if not opens or (version and version not in HANDSHAKE_PROTOCOL_VERSIONS):
            return None
        try:
            session = self.sessions.to_end()
        except LookupError:
            message = "the server has as many sessions as it keeps, all of them in use: try later"
            return refusal(503, message)
        if session is not None:
            # Made room for before the SDK counts the new one.
            await self._end(session)
        return None

    async def _pass_on(
        self, request: Request, body: bytes, limit_s: float, receive: Receive, send: Send
    ) -> None:
        principal = caller.get().principal
        session = self.sessions.get(request.headers.get(_SESSION, ""))
        started = _Open(principal)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note_session(request, message, principal)
            await send(message)

        self._requests.add(started)
        try:
            # In flight: a session with an open request is not ended to make room.
            with anyio.move_on_after(limit_s + _FLUSH_S), self.sessions.used(session):
                replayed = _replayed(body, receive, started.gone, limit_s)
                await self.inner(request.scope, replayed, watched)
        finally:
            self._requests.discard(started)

    def _note_session(self, request: Request, message: Message, principal: str) -> None:
        known = request.headers.get(_SESSION)
        if known is None:
            headers = dict(message.get("headers", []))
            session_id = headers.get(_SESSION.encode())
            if session_id is not None and message["status"] < 400:
                self.sessions.open(session_id.decode(), principal)
        # The SDK no longer has it.
        elif request.method == "DELETE" or message["status"] == 404:
            self.sessions.forget(known)

    async def _end(self, session: Session) -> None:
        """End a session as its client would."""
        self.sessions.forget(session.id)
        token = AccessToken(token="", client_id=session.principal, scopes=[])
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "DELETE",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            # The gate's checks are passed by: the request comes from the server itself.
            "headers": [(b"host", self._host), (_SESSION.encode(), session.id.encode())],
            "user": AuthenticatedUser(token),
        }

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def ignored(_: Message) -> None:
            return

        await self.inner(scope, nothing, ignored)


def _replayed(body: bytes, receive: Receive, gone: anyio.Event, limit_s: float) -> Receive:
    """Return a `receive` that gives the body, and then that the client has left.

    It has when it has, when `gone` is set, or after `limit_s` seconds.
    """
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    end = anyio.current_time() + limit_s

    async def replayed() -> Message:
        if messages:
            return messages.pop()

        async def finish(wait: Callable[[], Any]) -> None:
            await wait()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.cancel_scope.deadline = end
            # uvicorn's `receive` returns when the client has left.
            group.start_soon(finish, receive)
            group.start_soon(finish, gone.wait)
        return {"type": "http.disconnect"}

    return replayed


_EVERYBODY = Token(name=OWNER, digest="", created_at="", max_calls=None, max_cells=None)
"""Whose requests are those of a server without tokens."""

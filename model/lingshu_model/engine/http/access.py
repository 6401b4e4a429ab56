"""Who may talk to an engine: its own user over a Unix socket, holders of a token over TCP."""

import hmac
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lingshu_model.system.endpoints import NONCE_HEADER, PROOF_PATH, proof
from lingshu_model.system.peers import check_peer
from lingshu_model.system.private import UnsafePathError

# Bytes: a client that bears no token yet decides how many are hashed.
_MAX_NONCE = 128


class OwnersOnly(AutoHTTPProtocol):
    """HTTP over a Unix socket that refuses what another user's process asks."""

    def connection_made(self, transport: Any) -> None:
        """Begin; the kernel says who is at the other end."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        try:
            check_peer(connection, "this engine's client")
        # Answered and not closed, so that the client can show why.
        except UnsafePathError:
            self.app = _FOREIGN


class Bearer:
    """Lets through what bears the token, compared in constant time.

    Args:
        app: what is behind it.
        token: what a request must bear.
        proves: answer to a nonce with a proof that the token is known here.
    """

    def __init__(self, app: Any, token: str, *, proves: bool = False) -> None:
        self._app, self._token, self._proves = app, token, proves

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        given, wanted = headers.get(b"authorization", b""), f"Bearer {self._token}".encode()
        nonce = headers.get(NONCE_HEADER.lower().encode(), b"")[:_MAX_NONCE]
        # Before the token is looked at: a client asks for the proof before it sends its token.
        if self._proves and scope["path"] == PROOF_PATH:
            app: Any = PlainTextResponse(proof(self._token, nonce.decode("latin-1")))
        elif hmac.compare_digest(given, wanted):
            app = self._app
        else:
            app = _UNAUTHORISED
        await app(scope, receive, send)


_FOREIGN = JSONResponse(
    {"error": "this engine belongs to another user: start your own, with a home of your own"},
    status_code=403,
)
_UNAUTHORISED = JSONResponse(
    {"error": "this engine wants its token: set LINGSHU_ENGINE_TOKEN to the one it was given"},
    status_code=401,
    headers={"WWW-Authenticate": "Bearer"},
)

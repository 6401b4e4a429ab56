"""An OpenAI-compatible endpoint, streamed with httpx: the one host that is contacted.

Redirects are not followed, proxies and credentials of the environment are not used: a request goes
to the host that the operator named, or nowhere.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final

import httpx

from lingshu_model.system.redaction import remember
from lingshu_tools.chat.replies import Assembly, Reply, error_text
from lingshu_tools.errors import EndpointError, InputError

# Requests for one reply, the first included.
TRIES: Final = 5
LONGEST_WAIT_S: Final = 120.0
"""Seconds that an endpoint may ask to wait before the same request is sent again."""
# Time-out, too many requests, and errors of the server that may pass; 529 is "overloaded".
_BUSY: Final = (408, 429, 500, 502, 503, 504, 529)
# Bytes, so that an endpoint that never ends fills no memory.
_LARGEST_REPLY: Final = 16 * 2**20
_LARGEST_ERROR: Final = 64 * 2**10
Message = Mapping[str, Any]
Pause = Callable[[float, str], None]


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Attributes:
        url: up to and with the version, such as `https://api.example.org/v1`.
        model: its name there.
        key: sent as a bearer token to this host alone; never printed or saved.
        timeout_s: seconds without a byte after which a request is given up.
        pause: waits, and says why, before a request is sent again.
    """

    url: httpx.URL
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    pause: Pause = field(default=lambda seconds, _: time.sleep(seconds), repr=False)

    @classmethod
    def parse(cls, url: str, model: str, key: str | None = None, **options: Any) -> Endpoint:
        """Return an endpoint by the text of its URL.

        Raises:
            InputError: no such URL, one with credentials, or one that would show the key.
        """
        try:
            # Without the trailing slash, as paths are appended.
            parsed = httpx.URL(url.strip().rstrip("/"))
        except (httpx.InvalidURL, TypeError) as error:
            message = f"the endpoint is no URL ({error}); an example: http://127.0.0.1:8080/v1"
            raise InputError(message) from error
        if parsed.userinfo:
            message = "the endpoint has a user or a password in it: give a key by the environment"
            raise InputError(message)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            message = f"the endpoint {url!r} needs http:// or https:// and a host"
            raise InputError(message)
        if parsed.query or parsed.fragment:
            message = f"the endpoint at {parsed.host} has a ? or # in it: leave out what follows"
            raise InputError(message)
        if not model.strip():
            message = "the name of a model is needed: --model"
            raise InputError(message)
        key = key.strip() if key else None
        if key and parsed.scheme == "http" and not _is_loopback(parsed.host):
            message = f"the key would be readable on its way to {parsed.host}: use https://"
            raise InputError(message)
        if key and not (key.isascii() and key.isprintable()):
            message = "the key has characters that no key has: check the variable it comes from"
            raise InputError(message)
        if key:
            # From here on it is replaced wherever text is shown or written.
            remember(key)
        # The whole address of the resource is accepted too: people copy it.
        path = parsed.path.rstrip("/").removesuffix("/chat/completions")
        return cls(parsed.copy_with(path=path or "/"), model, key, **options)

    @property
    def host(self) -> str:
        """The host and port that are contacted."""
        return self.url.netloc.decode("ascii")

    def stream(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Iterator[str | Reply]:
        """Yield the text of a reply as it comes, then the reply.

        A request that the endpoint is too busy for is sent again when it says, up to five times.

        Raises:
            EndpointError: refused, not reached, or no completion.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if tools:
            body["tools"] = list(tools)
        with self._client() as client:
            for number in range(TRIES):
                with self._sent(client, body) as response:
                    if response.status_code not in _BUSY:
                        yield from self._read(response)
                        return
                    reason = self._refusal(response)
                    seconds = _wait_of(response, number)
                # The response is closed before the wait, or its connection would stay open.
                if number == TRIES - 1 or seconds > LONGEST_WAIT_S:
                    asks = f"; it asks to wait {seconds:.0f} s" if seconds > LONGEST_WAIT_S else ""
                    raise EndpointError(f"{reason}{asks}")  # noqa: EM102
                self.pause(seconds, reason)

    def _client(self) -> httpx.Client:
        return httpx.Client(
            # No proxy and no .netrc of the environment.
            trust_env=False,
            follow_redirects=False,
            # Certificates alone are taken from the environment: SSL_CERT_FILE, SSL_CERT_DIR.
            verify=httpx.create_ssl_context() if self.url.scheme == "https" else False,
            timeout=httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, 15.0)),
        )

    def _sent(self, client: httpx.Client, body: Mapping[str, Any]) -> _Response:
        headers = {"Accept": "text/event-stream, application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.url.copy_with(path=f"{self.url.path.rstrip('/')}/chat/completions")
        # ASCII, as a model or a person may have written half of a surrogate pair.
        content = json.dumps(body).encode("ascii")
        headers["Content-Type"] = "application/json"
        request = client.build_request("POST", url, content=content, headers=headers)
        return _Response(client, request, self.host)

    def _read(self, response: httpx.Response) -> Iterator[str | Reply]:
        if response.status_code != 200:
            raise EndpointError(self._refusal(response))
        assembly = Assembly()
        # By what came, not by what was requested.
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        try:
            if streamed:
                for data in _events(response):
                    if data == "[DONE]":
                        assembly.ended = True
                        break
                    yield from assembly.take(_json(data))
            else:
                # An endpoint that does not stream answers with the whole.
                yield from assembly.take(_json(_body(response, _LARGEST_REPLY)))
        except httpx.RequestError:
            # The text that came is shown already: the reply is cut, and says so.
            pass
        yield assembly.reply()

    def _refusal(self, response: httpx.Response) -> str:
        status, where = response.status_code, self.host
        if response.has_redirect_location or 300 <= status < 400:
            to = response.headers.get("location", "")
            return f"{where} redirects to {to[:200]!r}, which is not followed: name that endpoint"
        try:
            text = _body(response, _LARGEST_ERROR)
            said = error_text(json.loads(text)) if text.lstrip().startswith("{") else text[:300]
        except (ValueError, RecursionError, httpx.HTTPError, EndpointError):
            said = ""
        hint = {
            401: "check the key in the environment",
            403: "check the key in the environment",
            404: "check --endpoint (it ends before /chat/completions) and --model",
        }.get(status, "")
        return f"{where} answered {status}" + "".join(f": {t.strip()}" for t in (said, hint) if t)


class _Response:
    """A response that is being read; errors of the transport are ours."""

    def __init__(self, client: httpx.Client, request: httpx.Request, host: str) -> None:
        self._client, self._request, self._host = client, request, host

    def __enter__(self) -> httpx.Response:
        try:
            self._response = self._client.send(self._request, stream=True)
        except httpx.TimeoutException as error:
            message = f"{self._host} did not answer in time"
            raise EndpointError(message) from error
        except (httpx.HTTPError, OSError) as error:
            message = f"{self._host} cannot be reached ({error}): check --endpoint"
            raise EndpointError(message) from error
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _events(response: httpx.Response) -> Iterator[str]:
    """Yield the data of server-sent events.

    Raises:
        EndpointError: more than 16 MiB.
    """
    data: list[str] = []
    for line in _lines(response):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    # An event is complete with an empty line; some endpoints leave out the last.
    if data:
        yield "\n".join(data)


def _lines(response: httpx.Response) -> Iterator[str]:
    # Lines are divided as bytes: a character of several bytes may be cut between two pieces.
    rest, size = b"", 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > _LARGEST_REPLY:
            message = f"the endpoint sent more than {_LARGEST_REPLY:,} bytes for one reply"
            raise EndpointError(message)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
    if rest:
        yield rest.rstrip(b"\r").decode("utf-8", "replace")


def _body(response: httpx.Response, largest: int) -> str:
    content = b""
    for piece in response.iter_bytes():
        content += piece
        if len(content) > largest:
            message = f"the endpoint sent more than {largest:,} bytes"
            raise EndpointError(message)
    return content.decode("utf-8", "replace")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"the endpoint sent {text[:200]!r}, which is no JSON: is it OpenAI-compatible?"
        raise EndpointError(message) from error


def _wait_of(response: httpx.Response, number: int) -> float:
    """Return the seconds to wait: what the endpoint says, else powers of two."""
    said = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    # Seconds, or else a date, as the header may have either.
    if not math.isnan(seconds):
        return max(seconds, 0.0)
    try:
        moment = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return float(2**number)
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((zoned - datetime.now(UTC)).total_seconds(), 0.0)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

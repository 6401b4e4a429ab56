"""A local endpoint of chat completions that says what a script tells it, and breaks where it does.

`python -m lingshu_testing.chat_endpoint` serves a short conversation that calls `perturb_cells`.
"""

import json
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """A reply: text, then tool calls as (name, arguments as the model writes them).

    Attributes:
        cut_after: chunks after which the connection is cut; None for a whole reply.
        size: characters of a chunk.
    """

    text: str = ""
    calls: Sequence[tuple[str, Any]] = ()
    cut_after: int | None = None
    size: int = 5
    finish: str = ""


@dataclass(frozen=True)
class Refuse:
    """A reply with another status than 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b'{"error": {"message": "refused by the script"}}'


@dataclass(frozen=True)
class Raw:
    """Any bytes as the body."""

    body: bytes
    kind: str = "text/event-stream"


Reply = Say | Refuse | Raw


@dataclass
class FakeChat:
    """An endpoint on loopback.

    Attributes:
        replies: what is answered, in order; the last is repeated.
        requests: the bodies that came.
        headers: their headers.
    """

    replies: Sequence[Reply]
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    port: int = 0

    @property
    def url(self) -> str:
        """What `lingshu chat --endpoint` takes."""
        return f"http://127.0.0.1:{self.port}/v1"

    def next(self) -> Reply:
        """Return the reply to the request that came last."""
        return self.replies[min(len(self.requests), len(self.replies)) - 1]


@contextmanager
def chat_endpoint(*replies: Reply) -> Generator[FakeChat]:
    """Give an endpoint that is served by a thread; it ends with the context."""
    fake = FakeChat(replies)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server has it
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fake.headers.append({k.lower(): v for k, v in self.headers.items()})
            fake.requests.append({"path": self.path, **json.loads(body)})
            _answer(self, fake.next())

        do_GET = do_POST  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    if isinstance(reply, Refuse):
        _send(
            handler,
            reply.status,
            reply.body,
            {"Content-Type": "application/json"} | dict(reply.headers),
        )
    elif isinstance(reply, Raw):
        _send(handler, 200, reply.body, {"Content-Type": reply.kind})
    else:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for number, chunk in enumerate(chunks(reply)):
            if number == reply.cut_after:
                # Without the last chunk of the transfer: the client sees that it is cut.
                handler.close_connection = True
                handler.wfile.flush()
                return
            data = f"data: {json.dumps(chunk)}\n\n".encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        end = b"data: [DONE]\n\n"
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def chunks(reply: Say) -> Iterator[dict[str, Any]]:
    """Yield a reply as chunks of a stream; arguments come in parts too."""
    for start in range(0, len(reply.text), reply.size):
        yield _chunk({"content": reply.text[start : start + reply.size]})
    for index, (name, arguments) in enumerate(reply.calls):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": ""}
        yield _chunk(
            {"tool_calls": [{"index": index, "id": f"call-{index}", "function": function}]}
        )
        for start in range(0, len(written), 9):
            part = {"index": index, "function": {"arguments": written[start : start + 9]}}
            yield _chunk({"tool_calls": [part]})
    finish = reply.finish or ("tool_calls" if reply.calls else "stop")
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    yield {
        "choices": [],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
    }


def _chunk(delta: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


if __name__ == "__main__":
    knock_out = {
        "checkpoint": "thp1-crispr",
        "interventions": [{"kind": "knockout", "target": "STAT1"}],
        "n_cells": 16,
        "wait_s": 45,
    }
    with chat_endpoint(
        Refuse(429, {"Retry-After": "1"}),
        Say(
            "I look it up.",
            [("perturb_cells", knock_out), ("perturb_cell", "{"), ("find_genes", [])],
        ),
        Say("STAT1 is done."),
    ) as endpoint:
        sys.stdout.write(f"{endpoint.url}\n")
        sys.stdout.flush()
        sys.stdin.read()

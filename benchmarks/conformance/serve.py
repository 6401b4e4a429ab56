"""`python -m benchmarks.conformance.serve --home FOLDER [--fixtures]`: the server to be tested.

It is the product's server over HTTP, without tokens, as the suite has none to send. Its first line
on standard error says where it listens. It ends when its standard input is closed.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from benchmarks.conformance.fixtures import register
from lingshu_mcp.calls import Calls
from lingshu_mcp.http import Address, serve_http
from lingshu_tools.app import App


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--fixtures", action="store_true", help="register what scenarios call")
    arguments = parser.parse_args()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return serve_http(
        App(arguments.home, door="mcp"),
        Calls(),
        Address.parse("127.0.0.1:0"),
        with_tokens=False,
        register=register if arguments.fixtures else None,
    )


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    status = main()
    # Threads may still be at work.
    os._exit(status)

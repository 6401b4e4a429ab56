"""The optional TCP door of an engine on another machine."""

import argparse
import ipaddress
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

from lingshu_model.engine.errors import StartError
from lingshu_model.engine.http.service import Remote

TOKEN_VARIABLE = "LINGSHU_ENGINE_TOKEN"  # noqa: S105 - a name
# Characters: beyond guessing over a network.
_MIN_TOKEN = 16


@contextmanager
def remote(options: argparse.Namespace) -> Generator[Remote | None]:
    """Listen on `--listen HOST:PORT`, if asked to.

    Raises:
        StartError: no token, one that is too short, or beyond loopback without a certificate.
    """
    if options.listen is None:
        yield None
        return
    host, port = _address(options.listen)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < _MIN_TOKEN:
        message = f"--listen needs {TOKEN_VARIABLE} in the environment, {_MIN_TOKEN} characters up"
        raise StartError(message)
    # Without TLS the token and the cells would cross the network in plain text.
    if not (_is_loopback(host) or options.tls_cert):
        message = f"--listen {options.listen!r} is beyond loopback: give --tls-cert and --tls-key"
        raise StartError(message)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        yield Remote(listener, token, options.tls_cert, options.tls_key)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        message = f"--listen {text!r} is not HOST:PORT, such as 127.0.0.1:8765"
        raise StartError(message)
    # An IPv6 address stands in brackets before its port.
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

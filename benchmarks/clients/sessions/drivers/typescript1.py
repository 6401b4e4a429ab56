"""The official TypeScript SDK, version 1."""

from drivers.bridge import connect_version


def connect(server, limit_s):
    return connect_version("1", server, limit_s)

"""The official TypeScript SDK, version 2."""

from drivers.bridge import connect_version


def connect(server, limit_s):
    return connect_version("2", server, limit_s)

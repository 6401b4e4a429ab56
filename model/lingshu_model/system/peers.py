"""Which user is at the other end of a Unix socket, as the kernel says."""

import os
import socket
import struct
import sys

from lingshu_model.system.private import UnsafePathError

_LINUX = struct.Struct("=iII")  # pid, uid, gid
# macOS: SOL_LOCAL, LOCAL_PEERCRED, and the start of struct xucred: version, uid.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED = 0, 1, struct.Struct("=II")
_XUCRED_BYTES = 76


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user id of the process at the other end; None where the kernel does not say."""
    if sys.platform == "darwin":
        result = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return _XUCRED.unpack_from(result)[1]
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    return _LINUX.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]


def check_peer(connection: socket.socket, name: str) -> None:
    """Refuse a process of another user at the other end of a Unix socket.

    Args:
        connection: connected.
        name: what it is connected to, for the message.

    Raises:
        UnsafePathError: it is another user's.
    """
    uid = peer_uid(connection)
    if uid not in (None, os.geteuid()):
        message = (
            f"the process that answers at {name} is user {uid}, and this process runs as user "
            f"{os.geteuid()}: it is not trusted"
        )
        raise UnsafePathError(message)

"""The process at the other end of a Unix stream socket.

``SO_PEERCRED`` is the process that called connect(2) or, at the connecting end, listen(2): pid, uid, gid
(unix(7)). In a user namespace, ids that are not mapped appear as 65534 (user_namespaces(7)).
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Self

_UCRED = struct.Struct("=iII")


class PeerCredentials(NamedTuple):
    """Process, user and group at the other end when the connection was made."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Self:
        """Return those of a connected Unix stream socket.

        Raises:
            OSError: it is closed or of another family.
        """
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return cls(*_UCRED.unpack(packed))

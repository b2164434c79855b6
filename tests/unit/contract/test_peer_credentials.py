"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from reqpool_contract.peer_credentials import PeerCredentials

OWN = (os.getpid(), os.geteuid(), os.getegid())


def test_each_end_of_a_connection_learns_of_the_other(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "socket")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as dialled,
    ):
        listener.bind(path)
        listener.listen()
        dialled.connect(path)
        accepted, _ = listener.accept()
        with accepted:
            assert PeerCredentials.of(dialled) == OWN
            assert PeerCredentials.of(accepted) == OWN

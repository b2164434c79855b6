"""A real Redis: redis-server in a temporary folder, on a free loopback port and on a Unix socket.

with RedisServer() as redis:
    pool.redis(redis.url, "GET", "k")
    redis.command("CLIENT", "LIST")  # by a connection of the test's own
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from typing import Any

import hiredis

from .certificates import Pair
from .ports import HOST, free_port
from .server import Server

POOL_CLIENT = "reqpool"
"""What the pool calls its connections."""


class RedisServer(Server):
    """A running redis-server.

    Args:
        config: further lines of redis.conf, e.g. ``"requirepass secret"``, ``"user alice on >pw ~* +@all"``.
        password: what the test's own connections log in with.
        tls: certificate and key of a TLS port; None: there is none.

    Attributes:
        address: ``"127.0.0.1:port"``.
        url: ``"redis://127.0.0.1:port"``, database 0, no password.
        tls_address: of the TLS port.
        socket: path of the Unix socket.
    """

    program = package = "redis-server"

    def __init__(self, *config: str, password: str | None = None, tls: Pair | None = None) -> None:
        super().__init__()
        self._config = config
        self._password = password
        self._tls = tls
        self.address = ""
        self.tls_address = ""
        self.socket = ""

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        folder = self.folder
        port = free_port()
        self.address = f"{HOST}:{port}"
        self.socket = str(folder / "redis.sock")
        lines = [
            f"bind {HOST}", f"port {port}", f"unixsocket {self.socket}", "unixsocketperm 700",
            f"dir {folder}", 'save ""', "appendonly no", "enable-debug-command yes", *self._config,
        ]  # fmt: skip
        if self._tls is not None:
            tls_port = free_port()
            self.tls_address = f"{HOST}:{tls_port}"
            lines += [
                f"tls-port {tls_port}", f"tls-cert-file {self._tls.cert}", f"tls-key-file {self._tls.key}",
                f"tls-ca-cert-file {self._tls.cert}", "tls-auth-clients no",
            ]  # fmt: skip
        config = folder / "redis.conf"
        config.write_text("\n".join(lines) + "\n")
        return [program, str(config)]

    def stop(self) -> None:
        """End it at once: nothing is kept, and a script or a DEBUG SLEEP would make it wait."""
        if self._process is not None:
            self._process.kill()
        super().stop()

    def command(self, *command: str | bytes | int, timeout_s: float = 5.0) -> Any:
        """Ask by a connection of the test's own; return what hiredis makes of the reply.

        Raises:
            OSError: if nobody answers.
            hiredis.ReplyError: if the reply is an error.
        """
        with self.connect(timeout_s) as sock:
            sock.sendall(hiredis.pack_command(command))
            return _reply(sock)

    def connect(self, timeout_s: float = 5.0) -> socket.socket:
        """Return a connection of the test's own, logged in.

        Raises:
            OSError: if nobody answers.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.socket)
            if self._password is not None:
                sock.sendall(hiredis.pack_command(("AUTH", self._password)))
                _reply(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def clients(self) -> list[dict[str, str]]:
        """Return the pool's connections as CLIENT LIST shows them: ``id``, ``db``, ``user``, ``cmd`` …"""
        lines = self.command("CLIENT", "LIST").decode().splitlines()
        return [client for line in lines if (client := _fields(line)).get("name") == POOL_CLIENT]

    def close_clients(self, clients: Iterable[dict[str, str]]) -> None:
        """Close these connections from the server's side."""
        for client in clients:
            self.command("CLIENT", "KILL", "ID", client["id"])

    def answers(self) -> bool:
        """See :class:`Server`."""
        try:
            return bool(self.command("PING") == b"PONG")
        except OSError:  # nobody listens yet
            return False


def _reply(sock: socket.socket) -> Any:
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    while (value := reader.gets()) is Ellipsis:
        data = sock.recv(65_536)
        if not data:
            raise ConnectionError("redis-server closed the connection")
        reader.feed(data)
    if isinstance(value, hiredis.ReplyError):
        raise value
    return value


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", line))

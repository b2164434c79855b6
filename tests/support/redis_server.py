"""A real Redis: redis-server in a temporary folder, on a free loopback port and on a Unix socket.

with RedisServer() as redis:
    pool.redis(redis.url, "GET", "k")
    redis.command("CLIENT", "LIST")  # by a connection of the test's own
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hiredis

from .certificates import Pair
from .ports import HOST, free_port
from .wait import wait_until

POOL_CLIENT = "reqpool"
"""What the pool calls its connections."""
START_WITHIN_S = 15.0
STOP_WITHIN_S = 10.0


def find_redis() -> str | None:
    """Return the path of redis-server."""
    return shutil.which("redis-server")


class RedisServer:
    """A running redis-server; a context manager.

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

    def __init__(self, *config: str, password: str | None = None, tls: Pair | None = None) -> None:
        self._config = config
        self._password = password
        self._tls = tls
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.tls_address = ""
        self.socket = ""

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def __enter__(self) -> RedisServer:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if redis-server is not installed or does not start; the text has its log.
        """
        program = find_redis()
        if program is None:
            raise RuntimeError("redis-server is not installed (Debian: apt-get install redis-server)")
        self._folder = tempfile.TemporaryDirectory(prefix="reqpool-redis-")
        folder = Path(self._folder.name)
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
        with (folder / "log").open("wb") as log:
            # setpriv (util-linux): it ends with this process however that ends, prctl(2) PDEATHSIG.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, START_WITHIN_S, "redis-server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop it and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # nothing is kept, and a script or a DEBUG SLEEP would make it wait
            process.wait(STOP_WITHIN_S)
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._process is None:
            raise RuntimeError("redis-server is not running")
        return self._process.pid

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

    def log(self) -> str:
        """Return what it has logged."""
        if self._folder is None:
            return ""
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"redis-server did not start:\n{self.log()}")
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

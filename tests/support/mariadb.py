"""A real MariaDB: mariadbd in a temporary folder, on a free loopback port and on a Unix socket.

    with MariadbServer() as mariadb:
        pool.mysql(mariadb.url(), "SELECT 1")
        mariadb.run("KILL 7")  # by a connection of the test's own

Users, with every privilege: ``app`` and ``odd`` (mysql_native_password), ``ed`` (ed25519), ``free`` (no
password), ``secure`` (native, over TLS only); ``poor`` may do nothing. The databases ``test`` and ``bench``
are there to use.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql

from .certificates import Pair
from .ports import HOST, free_port
from .server import Server

DATABASE = "test"
PASSWORD = "secret"
ODD_PASSWORD = "s3cret&p@ss/wörd"
"""Of ``odd``: what it holds has to be percent-encoded in a URL."""

UNKNOWN_THREAD = 1094
"""ER_NO_SUCH_THREAD."""
INSTALL_WITHIN_S = 60.0

# What a start does not need is left out, and what is written need not survive: 0.5 s to install, 0.2 s to
# start.
_SMALL = (
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=4M",
    "--innodb-data-file-path=ibdata1:4M:autoextend",
    "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--aria-pagecache-buffer-size=1M",
)
_SERVER = (
    "--performance-schema=0",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--plugin-load-add=auth_ed25519",
    "--max-connections=300",
    "--max-allowed-packet=64M",
    "--innodb-fast-shutdown=2",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--local-infile=1",
    "--character-set-server=latin1",
)
"""latin1 as default: that statements and answers are in utf8mb4 is then the connection's own doing."""


class MariadbServer(Server):
    """A running mariadbd.

    Args:
        options: further options of mariadbd, e.g. ``"--max-connections=3"``.
        tls: certificate and key; None: it speaks no TLS.

    Attributes:
        host, port: where it listens.
        address: the two in one.
        socket: path of the Unix socket.
    """

    program = "mariadbd"
    package = "mariadb-server"

    def __init__(self, *options: str, tls: Pair | None = None) -> None:
        super().__init__()
        self._options = options
        self._tls = tls
        self.host = HOST
        self.port = 0
        self.socket = ""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def url(
        self, user: str = "app", password: str = PASSWORD, *, scheme: str = "mysql", database: str = DATABASE
    ) -> str:
        """Return a URL; an empty password is left out."""
        secret = f":{quote(password, safe='')}" if password else ""
        return f"{scheme}://{user}{secret}@{self.address}/{database}"

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        folder = self.folder
        data = folder / "data"
        self._install(data)
        self.port = free_port()
        self.socket = str(folder / "mariadb.sock")
        tls = [f"--ssl-cert={self._tls.cert}", f"--ssl-key={self._tls.key}"] if self._tls is not None else []
        return [
            program, "--no-defaults", *_as_user(), f"--datadir={data}", f"--socket={self.socket}",
            f"--pid-file={folder}/pid", f"--bind-address={HOST}", f"--port={self.port}", *_SMALL, *_SERVER,
            *tls, *self._options,
        ]  # fmt: skip

    def connect(self, database: str | None = DATABASE) -> pymysql.Connection[Any]:
        """Return a connection of the test's own, as root, by the Unix socket."""
        return pymysql.connect(unix_socket=self.socket, user="root", database=database, autocommit=True)

    def run(self, *statements: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run statements by a connection of the test's own; return the last one's rows."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, params)
            return list(cursor.fetchall())

    def connections(self, user: str = "app") -> list[int]:
        """Return the ids of a user's connections."""
        sql = "SELECT id FROM information_schema.processlist WHERE user = %s ORDER BY id"
        return [row[0] for row in self.run(sql, params=(user,))]

    def close_connections(self, user: str = "app") -> None:
        """Close a user's connections from the server's side; one may have gone by itself meanwhile."""
        for number in self.connections(user):
            try:
                self.run(f"KILL {number}")
            except pymysql.err.OperationalError as error:
                if error.args[0] != UNKNOWN_THREAD:
                    raise

    def _install(self, data: Path) -> None:
        done = subprocess.run(
            [
                "mariadb-install-db", "--no-defaults", f"--datadir={data}", *_as_user(), "--skip-test-db",
                "--auth-root-authentication-method=normal", "--skip-name-resolve", *_SMALL,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_WITHIN_S,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout.decode(errors='replace')}")

    def answers(self) -> bool:
        """See :class:`Server`."""
        # PyMySQL leaves the socket open of a connection that nobody takes.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(self.socket):
                return False
        try:
            self.connect(None).close()
        except pymysql.err.OperationalError:  # it is not ready yet
            return False
        self._make_users()
        return True

    def _make_users(self) -> None:
        native, ed = "IDENTIFIED BY %s", "IDENTIFIED VIA ed25519 USING PASSWORD(%s)"
        users = [
            ("app", native, PASSWORD, ""),
            ("odd", native, ODD_PASSWORD, ""),
            ("ed", ed, PASSWORD, ""),
            ("free", native, "", ""),
            ("secure", native, PASSWORD, "REQUIRE SSL"),
        ]
        with self.connect(None) as connection, connection.cursor() as cursor:
            for database in (DATABASE, "bench"):
                cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4")
            for user, how, password, require in users:
                cursor.execute(f"CREATE USER IF NOT EXISTS {user} {how} {require}", (password,))
                cursor.execute(f"GRANT ALL ON *.* TO {user}")
            cursor.execute(f"CREATE USER IF NOT EXISTS poor {native}", (PASSWORD,))
            cursor.execute("CREATE ROLE IF NOT EXISTS captain")
            cursor.execute("GRANT captain TO app")


def _as_user() -> list[str]:
    """The option without which mariadbd refuses to run as root."""
    return ["--user=root"] if os.geteuid() == 0 else []

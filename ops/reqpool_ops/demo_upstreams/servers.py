"""Real servers for the demo, each in the demo's temporary folder and on a free loopback port.

Every local user can connect to them, so Redis and MariaDB have passwords, which are new each time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dnslib import DNSRecord

from .zone import ZONE, zone_text

HOST = "127.0.0.1"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
"""Debian has some servers in /usr/sbin, which is not on every user's path."""
START_WITHIN_S = 10.0
INSTALL_WITHIN_S = 20.0

DATABASE = USER = "demo"
SMALL = ("--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0")


class CannotServe(Exception):
    """A server is not installed, or does not start; the text says which."""


@dataclass
class ServerAddress:
    """Where a server runs.

    Attributes:
        folder: its own.
        port: a free one.
        password: for servers that use one.
    """

    folder: Path
    port: int
    password: str = field(default_factory=secrets.token_urlsafe, repr=False)


@dataclass(frozen=True)
class DemoServer:
    """A server that can be started.

    Attributes:
        program: the program to run, which must be installed.
        package: the Debian package that has it.
        target: returns the target of requests to it.
        command: prepares its folder and returns its command line.
        asks: bytes that it answers once it serves.
        says: bytes that its answer then contains.
    """

    program: str
    package: str
    target: Callable[[ServerAddress], str]
    command: Callable[[ServerAddress, str], list[str]]
    asks: bytes
    says: bytes


KNOT_CONFIG = """
server:
    rundir: "{folder}"
    listen: {host}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{folder}"
log:
  - target: stderr
    any: error
template:
  - id: default
    storage: "{folder}"
    semantic-checks: off
zone:
  - domain: {zone}
    file: "{folder}/zone"
"""

NGINX_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {host}:{port};
        location / {{ return 200 "$uri\\n"; }}
    }}
}}
"""


def knot_command(place: ServerAddress, program: str) -> list[str]:
    """Return the command of Knot DNS with the demo's zone."""
    (place.folder / "zone").write_text(zone_text())
    config = place.folder / "knot.conf"
    config.write_text(KNOT_CONFIG.format(folder=place.folder, host=HOST, port=place.port, zone=ZONE))
    return [program, "-c", str(config)]


def nginx_command(place: ServerAddress, program: str) -> list[str]:
    """Return the command of nginx, answering each request with its path."""
    config = place.folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=place.folder, host=HOST, port=place.port))
    return [program, "-e", "stderr", "-p", str(place.folder), "-c", str(config)]


def redis_command(place: ServerAddress, program: str) -> list[str]:
    """Return the command of Redis, without persistence; its password is in a file, where no one sees it."""
    config = place.folder / "redis.conf"
    config.write_text(
        f'bind {HOST}\nport {place.port}\ndir "{place.folder}"\nsave ""\nloglevel warning\n'
        f"requirepass {place.password}\n"
    )
    return [program, str(config)]


def mariadb_command(place: ServerAddress, program: str) -> list[str]:
    """Return the command of MariaDB with one database, and one user who may do everything there only.

    Raises:
        CannotServe: if its system tables cannot be made.
    """
    install = shutil.which("mariadb-install-db", path=PATH)
    if install is None:
        raise CannotServe("mariadb-install-db is not installed (Debian: apt-get install mariadb-server)")
    data = place.folder / "data"
    user = ["--user=root"] if os.geteuid() == 0 else []  # otherwise it refuses to run as root
    common = ["--no-defaults", *user, f"--datadir={data}", "--skip-name-resolve", *SMALL]
    # Root can log in only over the Unix socket, and only as the same system user (the default log-in).
    finish([install, *common, "--skip-test-db"])
    users = place.folder / "users.sql"
    users.write_text(
        f"CREATE DATABASE {DATABASE};\nCREATE USER {USER} IDENTIFIED BY '{place.password}';\n"
        f"GRANT ALL ON {DATABASE}.* TO {USER};\n"
    )
    return [
        program, *common, f"--socket={place.folder}/socket", f"--pid-file={place.folder}/pid",
        f"--bind-address={HOST}", f"--port={place.port}", f"--init-file={users}", "--skip-log-bin",
        "--log-warnings=0",
    ]  # fmt: skip


_QUESTION = bytes(DNSRecord.question(f"host-1.{ZONE}", "A").pack())

SERVERS = {
    "mysql": DemoServer(
        "mariadbd", "mariadb-server",
        lambda place: f"mysql://{USER}:{place.password}@{HOST}:{place.port}/{DATABASE}",
        mariadb_command, b"", b"mysql_native_password",
    ),
    "redis": DemoServer(
        "redis-server", "redis-server",
        lambda place: f"redis://:{place.password}@{HOST}:{place.port}/0",
        redis_command, b"PING\r\n", b"NOAUTH",
    ),
    "http": DemoServer(
        "nginx", "nginx",
        lambda place: f"http://{HOST}:{place.port}",
        nginx_command, b"GET / HTTP/1.0\r\n\r\n", b" 200 OK",
    ),
    "dns": DemoServer(
        "knotd", "knot",
        lambda place: f"{HOST}:{place.port}",
        knot_command, len(_QUESTION).to_bytes(2, "big") + _QUESTION, bytes((192, 0, 2, 1)),
    ),
}  # fmt: skip
"""By kind; the slowest to start is first."""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Run every server that is installed, until the block ends.

    Args:
        folder: an empty one, closed to other users.

    Yields:
        The targets of requests, by kind; and why other kinds are missing, by kind.
    """
    targets: dict[str, str] = {}
    reasons: dict[str, str] = {}
    started: dict[str, tuple[ServerAddress, subprocess.Popen[bytes]]] = {}
    try:
        for kind, server in SERVERS.items():
            place = ServerAddress(folder / kind, free_port())
            place.folder.mkdir()
            try:
                started[kind] = place, start(server, place)
            except (CannotServe, OSError) as error:
                reasons[kind] = str(error)
        for kind, (place, process) in started.items():
            try:
                wait_for(SERVERS[kind], place, process)
                targets[kind] = SERVERS[kind].target(place)
            except CannotServe as error:
                reasons[kind] = str(error)
        yield targets, reasons
    finally:
        for _, process in started.values():
            process.kill()
        for _, process in started.values():
            process.wait()


def start(server: DemoServer, place: ServerAddress) -> subprocess.Popen[bytes]:
    """Start a server.

    Raises:
        CannotServe: if it is not installed, or cannot be prepared.
    """
    program = shutil.which(server.program, path=PATH)
    guard = shutil.which("setpriv")
    if program is None:
        raise CannotServe(f"{server.program} is not installed (Debian: apt-get install {server.package})")
    if guard is None:
        raise CannotServe("setpriv is not installed (Debian: apt-get install util-linux)")
    with (place.folder / "log").open("wb") as log:
        # setpriv(1) sets PR_SET_PDEATHSIG: a killed demo leaves no server behind either.
        return subprocess.Popen(
            [guard, "--pdeathsig", "KILL", *server.command(place, program)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def finish(command: list[str]) -> None:
    """Run a program to its end; if that is cut short, its children are killed, too.

    Raises:
        CannotServe: if it fails, or takes too long.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    ) as process:
        try:
            said, _ = process.communicate(timeout=INSTALL_WITHIN_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CannotServe(f"{command[0]} took more than {INSTALL_WITHIN_S:.0f} s") from error
            raise
    if process.returncode:
        raise CannotServe(f"{command[0]} failed: {last_line(said)}")


def wait_for(server: DemoServer, place: ServerAddress, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        CannotServe: if it has ended, or does not answer in time.
    """
    deadline_s = time.monotonic() + START_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection((HOST, place.port), 0.5) as probe:
            probe.sendall(server.asks)
            if server.says in probe.recv(4096):
                return
        time.sleep(0.02)
    raise CannotServe(f"{server.program} does not start: {last_line((place.folder / 'log').read_bytes())}")


def last_line(log: bytes) -> str:
    """Return the last line of a server's output."""
    return (log.decode(errors="replace").strip().splitlines() or ["no output"])[-1].strip()


def free_port() -> int:
    """Return a port that is free now for TCP, and most likely for UDP."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])

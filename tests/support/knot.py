"""A real authoritative DNS server: Knot, in a temporary folder, on a free loopback port.

with KnotServer() as knot:
    pool.dns("h1.example.test", server=knot.address)
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import dnslib

from .ports import HOST, free_port
from .wait import wait_until

ZONE = "example.test"
HOSTS = 10_000
"""The zone has h0 to h9999, each with the address :func:`host_address` tells."""
BIG_TXT = "".join(f"{number:04d}:" + "x" * 195 for number in range(12))
"""Text of ``big.example.test``: 2,400 octets, so over UDP with 1232 it comes truncated."""

START_WITHIN_S = 15.0
STOP_WITHIN_S = 10.0

# TTL 0: resolvers that cache (c-ares) have to ask, as reqpool does.
_RECORDS = """\
$ORIGIN example.test.
$TTL 0
@         SOA   ns hostmaster 1 3600 600 86400 60
@         NS    ns
@         MX    10 mail
@         MX    20 backup.mail
ns        A     127.0.0.1
mail      A     192.0.2.25
www       A     192.0.2.1
www       AAAA  2001:db8::1
six       AAAA  2001:db8::6
three     A     192.0.2.31
three     A     192.0.2.32
three     A     192.0.2.33
alias     CNAME www
chain     CNAME alias
away      CNAME elsewhere.example.
txt       TXT   "v=spf1 -all"
txt2      TXT   "two " "strings"
_sip._tcp SRV   5 10 5060 sip
caa       CAA   0 issue "ca.example.test"
under_score A   192.0.2.95
xn--bcher-kva A 192.0.2.66
*.wild    A     192.0.2.42
"""

_CONFIG = """\
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
    any: warning
zone:
  - domain: {zone}.
    file: "{folder}/zone"
    zonefile-sync: -1
    journal-content: none
"""


def find_knotd() -> str | None:
    """Return the path of knotd; Debian has it in /usr/sbin, which is not on every user's path."""
    return shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin:/usr/local/sbin")


def host_address(number: int) -> str:
    """Return the address of ``h<number>.example.test``."""
    return f"10.0.{number >> 8}.{number & 0xFF}"


def zone_text() -> str:
    """Return the zone file."""
    hosts = "".join(f"h{number} A {host_address(number)}\n" for number in range(HOSTS))
    strings = " ".join(f'"{BIG_TXT[at : at + 200]}"' for at in range(0, len(BIG_TXT), 200))
    return f"{_RECORDS}big TXT {strings}\n{hosts}"


class KnotServer:
    """A running knotd; a context manager.

    Attributes:
        address: ``"127.0.0.1:port"``, UDP and TCP.
        host, port: the same in two.
    """

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._process is None:
            raise RuntimeError("knotd is not running")
        return self._process.pid

    def __enter__(self) -> KnotServer:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if knotd is not installed or does not start; the text has its log.
        """
        program = find_knotd()
        if program is None:
            raise RuntimeError("knotd is not installed (Debian: apt-get install knot)")
        self._folder = tempfile.TemporaryDirectory(prefix="reqpool-knot-")
        folder = Path(self._folder.name)
        self.port = free_port()
        config = folder / "knot.conf"
        config.write_text(_CONFIG.format(folder=folder, host=self.host, port=self.port, zone=ZONE))
        (folder / "zone").write_text(zone_text())
        with (folder / "log").open("wb") as log:
            # setpriv (util-linux) lets knotd end with this process however that ends: prctl(2), PDEATHSIG.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, START_WITHIN_S, "knotd answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop it and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            self._folder.cleanup()

    def exchange(self, query: bytes, *, tcp: bool = False, timeout_s: float = 1.0) -> bytes:
        """Send a query as it is, return the answer as it is.

        Raises:
            OSError: if none comes.
        """
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(timeout_s)
            sock.connect((self.host, self.port))
            if not tcp:
                sock.send(query)
                return sock.recv(65_535)
            sock.sendall(len(query).to_bytes(2, "big") + query)
            with sock.makefile("rb") as stream:
                return stream.read(int.from_bytes(stream.read(2), "big"))

    def query(self, name: str, rtype: str = "A", timeout_s: float = 1.0) -> dnslib.DNSRecord:
        """Ask it by plain UDP and dnslib: what a test compares with.

        Raises:
            OSError: if it does not answer.
        """
        question = bytes(dnslib.DNSRecord.question(name, rtype).pack())
        return dnslib.DNSRecord.parse(self.exchange(question, timeout_s=timeout_s))

    def log(self) -> str:
        """Return what it has logged."""
        return Path(self._folder.name, "log").read_text(errors="replace") if self._folder else ""

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"knotd did not start:\n{self.log()}")
        try:
            return bool(self.query(f"h{HOSTS - 1}.{ZONE}", timeout_s=0.2).rr)
        except OSError:  # nobody listens yet
            return False

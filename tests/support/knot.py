"""A real authoritative DNS server: Knot, in a temporary folder, on a free loopback port.

with KnotServer() as knot:
    pool.dns("h1.example.test", server=knot.address)

The zone has h0 to h9999, each with the address that :func:`host_address` returns.
"""

from __future__ import annotations

import socket

import dnslib

from bench.asked import COUNT as HOSTS
from bench.asked import ZONE, host_address

from .ports import HOST, free_port
from .server import Server

BIG_TXT = "".join(f"{number:04d}:" + "x" * 195 for number in range(12))
"""Text of ``big.example.test``: 2,400 octets, so over UDP with 1232 it comes truncated."""

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


def zone_text() -> str:
    """Return the zone file."""
    hosts = "".join(f"h{number} A {host_address(number)}\n" for number in range(HOSTS))
    strings = " ".join(f'"{BIG_TXT[at : at + 200]}"' for at in range(0, len(BIG_TXT), 200))
    return f"{_RECORDS}big TXT {strings}\n{hosts}"


class KnotServer(Server):
    """A running knotd.

    Attributes:
        address: ``"127.0.0.1:port"``, UDP and TCP.
        host, port: the same in two.
    """

    program = "knotd"
    package = "knot"

    def __init__(self) -> None:
        super().__init__()
        self.host = HOST
        self.port = 0

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        folder = self.folder
        self.port = free_port()
        config = folder / "knot.conf"
        config.write_text(_CONFIG.format(folder=folder, host=self.host, port=self.port, zone=ZONE))
        (folder / "zone").write_text(zone_text())
        return [program, "-c", str(config)]

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

    def answers(self) -> bool:
        """See :class:`Server`."""
        try:
            return bool(self.query(f"h{HOSTS - 1}.{ZONE}", timeout_s=0.2).rr)
        except OSError:  # nobody listens yet
            return False

"""The names of the demo's DNS zone."""

from __future__ import annotations

from dnslib import AAAA, CNAME, MX, QTYPE, RR, TXT, A

ZONE = "demo.test"
"""Holds ``host-0`` to ``host-255`` (A and AAAA), ``www`` (CNAME), ``mail`` (MX), ``text`` (TXT)."""
HOSTS = 256


def zone_records() -> list[RR]:
    """Return every record of the demo's zone."""
    records = []
    for number in range(HOSTS):
        name = f"host-{number}.{ZONE}"
        records.append(RR(name, QTYPE.A, rdata=A(f"192.0.2.{number}"), ttl=60))
        records.append(RR(name, QTYPE.AAAA, rdata=AAAA(f"2001:db8::{number:x}"), ttl=60))
    records.append(RR(f"www.{ZONE}", QTYPE.CNAME, rdata=CNAME(f"host-1.{ZONE}"), ttl=60))
    records.append(RR(f"mail.{ZONE}", QTYPE.MX, rdata=MX(f"host-2.{ZONE}", 10), ttl=60))
    records.append(RR(f"text.{ZONE}", QTYPE.TXT, rdata=TXT("hello from the demo"), ttl=60))
    return records


def zone_text() -> str:
    """Return the zone as a file for a DNS server."""
    head = f"$ORIGIN {ZONE}.\n@ 60 SOA ns hostmaster 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A 127.0.0.1\n"
    return head + "\n".join(map(str, zone_records())) + "\n"

"""DNS answers: a thin view on the message as it came, parsed when it is looked at.

dnslib takes 22 to 34 µs for an answer. The types that make up nearly all traffic are read here, in
1 to 3 µs for one record; all others by dnslib, one record at a time.

What a hostile message could try: a compression pointer must point backwards (RFC 1035 §4.1.4: to a
prior occurrence), a name ends at 255 octets, and it takes at most 127 pointers (labels can be no more):
time is linear in the size of the message.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from ..errors import BadResponse

_HEADER_BYTES = 12
_MAX_NAME_BYTES = 255
_MAX_POINTERS = 127
_TO_QUESTION = b"\xc0\x0c"
"""The usual owner of a record: a pointer to the question's name, right behind the header."""

_RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
    6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 16: "BADVERS", 23: "BADCOOKIE",
}  # fmt: skip

_IN = 1
_A, _NS, _CNAME, _SOA, _PTR, _MX, _TXT, _AAAA, _SRV, _DNAME, _OPT = 1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 41
_TYPE_NAMES = {
    _A: "A", _NS: "NS", _CNAME: "CNAME", _SOA: "SOA", _PTR: "PTR", _MX: "MX", _TXT: "TXT",
    _AAAA: "AAAA", _SRV: "SRV", _DNAME: "DNAME",
}  # fmt: skip
_ONE_NAME = frozenset((_NS, _CNAME, _PTR, _DNAME))

_COUNTS = Struct(">HHHH").unpack_from
_RECORD = Struct(">HHIH").unpack_from
_TWO = Struct(">HH").unpack_from
_THREE = Struct(">HHH").unpack_from
_FIVE = Struct(">5I").unpack_from

_PLAIN = bytes(code for code in range(33, 127) if code != ord("\\"))
"""Octets that stand for themselves in a name's text; the dot too, which is counted instead."""


class DnsRecord(NamedTuple):
    """One resource record.

    Attributes:
        name: owner, without the final dot (``"."`` is the root), case as the server sent it.
        type: ``"A"``, ``"MX"``, …; ``"TYPE65280"`` where the type has no name.
        ttl: seconds.
        value: by type:
            A, AAAA: the address as str. CNAME, NS, PTR, DNAME: the name as str.
            MX: (preference, exchange). SRV: (priority, weight, port, target).
            SOA: (mname, rname, serial, refresh, retry, expire, minimum), spans in seconds.
            TXT: str, its strings joined; octets that are not UTF-8 as ``\\xNN``.
            All others: zone-file text as dnslib writes it.
    """

    name: str
    type: str
    ttl: int
    value: Any


class DnsAnswer:
    """A name server's answer. NXDOMAIN and other refusals are answers too: see ``rcode``.

    Everything is parsed on first look, so each attribute but ``raw``, ``truncated`` and
    ``authoritative`` raises BadResponse if the part it needs is malformed. May be looked at from any thread.

    Attributes:
        raw: the message as it came.
    """

    __slots__ = ("_answers", "_others", "_question", "raw")

    def __init__(self, raw: bytes) -> None:
        """Wrap a message.

        Raises:
            BadResponse: if it is too short for a header, or no answer.
        """
        if len(raw) < _HEADER_BYTES or raw[2] < 0x80:
            raise BadResponse(f"not a DNS answer: {len(raw)} bytes, {raw[:_HEADER_BYTES].hex()}")
        self.raw = raw
        # Each is filled by one assignment: two threads that look at once do the work twice, no more.
        self._question: tuple[str, int, int] | None = None
        self._answers: tuple[tuple[DnsRecord, ...], int, int] | None = None
        self._others: tuple[tuple[DnsRecord, ...], tuple[DnsRecord, ...], int] | None = None

    @property
    def records(self) -> tuple[DnsRecord, ...]:
        """The answer section, in the server's order."""
        return (self._answers or self._parse_answers())[0]

    @property
    def authority(self) -> tuple[DnsRecord, ...]:
        """The authority section."""
        return (self._others or self._parse_others())[0]

    @property
    def additional(self) -> tuple[DnsRecord, ...]:
        """The additional section, without the OPT pseudo-record (it is in ``message``)."""
        return (self._others or self._parse_others())[1]

    @property
    def rcode(self) -> str:
        """``"NOERROR"``, ``"NXDOMAIN"``, ``"SERVFAIL"``, …; ``"RCODE11"`` where the number has no name."""
        number = self.rcode_number
        return _RCODES.get(number) or f"RCODE{number}"

    @property
    def rcode_number(self) -> int:
        """The response code, with EDNS's upper 8 bits (RFC 6891 §6.1.3)."""
        raw = self.raw
        if raw[10] == raw[11] == 0:  # no additional record, so no OPT
            return raw[3] & 0x0F
        return raw[3] & 0x0F | (self._others or self._parse_others())[2] << 4

    @property
    def name(self) -> str:
        """The name that was asked for, without the final dot; ``""`` if the question is not repeated."""
        return (self._question or self._parse_question())[0]

    @property
    def rtype(self) -> str:
        """The type that was asked for; ``""`` if the question is not repeated."""
        number = (self._question or self._parse_question())[1]
        return _type_name(number) if number else ""

    @property
    def truncated(self) -> bool:
        """TC: the server had more to say than it could send."""
        return bool(self.raw[2] & 0x02)

    @property
    def authoritative(self) -> bool:
        """AA: the server answers for its own zone."""
        return bool(self.raw[2] & 0x04)

    @property
    def message(self) -> Any:
        """The whole message as a ``dnslib.DNSRecord``, made anew at each look."""
        import dnslib

        try:
            return dnslib.DNSRecord.parse(self.raw)
        except Exception as error:  # dnslib raises whatever its parsers run into
            raise BadResponse(f"dnslib cannot read the answer: {error}") from error

    def __repr__(self) -> str:
        try:
            about = f"{self.name} {self.rtype} {self.rcode}, {len(self.records)} records"
        except BadResponse as error:
            about = f"malformed: {error}"
        return f"<DnsAnswer {about}, {len(self.raw)} bytes>"

    def __reduce__(self) -> tuple[type[DnsAnswer], tuple[bytes]]:
        return DnsAnswer, (self.raw,)

    def _parse_question(self) -> tuple[str, int, int]:
        """Return name, type and end of the question."""
        raw = self.raw
        count = raw[4] << 8 | raw[5]
        if count == 0:
            question = ("", 0, _HEADER_BYTES)
        elif count == 1:
            try:
                name, at = _read_name(raw, _HEADER_BYTES)
                question = (name, _TWO(raw, at)[0], at + 4)
            except (IndexError, StructError) as error:
                raise BadResponse("DNS answer ends within its question") from error
        else:
            raise BadResponse(f"DNS answer repeats {count} questions, one was asked")
        self._question = question
        return question

    def _parse_answers(self) -> tuple[tuple[DnsRecord, ...], int, int]:
        name, _, at = self._question or self._parse_question()
        raw = self.raw
        answers = self._answers = _read_section(raw, at, raw[6] << 8 | raw[7], name)
        return answers

    def _parse_others(self) -> tuple[tuple[DnsRecord, ...], tuple[DnsRecord, ...], int]:
        at = (self._answers or self._parse_answers())[1]
        raw, name = self.raw, self.name
        _, _, authority_count, additional_count = _COUNTS(raw, 4)
        authority, at, _ = _read_section(raw, at, authority_count, name)
        additional, _, rcode_high = _read_section(raw, at, additional_count, name)
        others = self._others = (authority, additional, rcode_high)
        return others


def _read_section(raw: bytes, at: int, count: int, question: str) -> tuple[tuple[DnsRecord, ...], int, int]:
    """Read ``count`` records from ``at`` on; return them, where they end, and the upper bits of the rcode."""
    records: list[DnsRecord] = []
    rcode_high = 0
    try:
        for _ in range(count):
            if raw.startswith(_TO_QUESTION, at) and question:
                name = question
                at += 2
            else:
                name, at = _read_name(raw, at)
            rtype, rclass, ttl, size = _RECORD(raw, at)
            at += 10
            end = at + size
            if end > len(raw):
                raise BadResponse(f"DNS answer ends within a record of {name}")
            if rtype == _A and size == 4 and rclass == _IN:
                records.append(DnsRecord(name, "A", ttl, inet_ntop(AF_INET, raw[at:end])))
            elif rtype == _OPT:
                rcode_high = ttl >> 24
            elif rclass == _IN and rtype in _TYPE_NAMES:
                value = _read_value(raw, at, end, rtype)
                records.append(DnsRecord(name, _TYPE_NAMES[rtype], ttl, value))
            else:
                records.append(DnsRecord(name, _type_name(rtype), ttl, _dnslib_text(raw[at:end], rtype)))
            at = end
    except (IndexError, StructError) as error:
        raise BadResponse(f"DNS answer ends within record {len(records) + 1} of {count}") from error
    return tuple(records), at, rcode_high


def _read_value(raw: bytes, at: int, end: int, rtype: int) -> Any:
    """Read the data of one of the types known here; it must fill its length exactly."""
    value: Any
    if rtype == _AAAA and end - at == 16:
        return inet_ntop(AF_INET6, raw[at:end])
    if rtype == _TXT:
        return _read_strings(raw, at, end)
    if rtype in _ONE_NAME:
        value, at = _read_name(raw, at)
    elif rtype == _MX:
        exchange, after = _read_name(raw, at + 2)
        value, at = (raw[at] << 8 | raw[at + 1], exchange), after
    elif rtype == _SRV:
        target, after = _read_name(raw, at + 6)
        value, at = (*_THREE(raw, at), target), after
    elif rtype == _SOA:
        mname, at = _read_name(raw, at)
        rname, at = _read_name(raw, at)
        value, at = (mname, rname, *_FIVE(raw, at)), at + 20
    if at != end:
        raise BadResponse(f"DNS answer has a {_TYPE_NAMES[rtype]} record of a wrong length")
    return value


def _read_strings(raw: bytes, at: int, end: int) -> str:
    strings = []
    while at < end:
        stop = at + 1 + raw[at]
        strings.append(raw[at + 1 : stop])
        at = stop
    if at != end or not strings:
        raise BadResponse("DNS answer has a TXT record of a wrong length")
    return b"".join(strings).decode("utf-8", "backslashreplace")


def _read_name(raw: bytes, at: int) -> tuple[str, int]:
    """Read a name, compressed or not; return its text and where it ends.

    Raises:
        IndexError: if the message ends within it.
        BadResponse: if it is malformed.
    """
    labels: list[bytes] = []
    end = pointers = 0
    size = 1
    while length := raw[at]:
        if length < 0x40:
            stop = at + 1 + length
            labels.append(raw[at + 1 : stop])
            at = stop
            size += 1 + length
            if size > _MAX_NAME_BYTES:
                raise BadResponse("DNS answer has a name of more than 255 octets")
        elif length >= 0xC0:
            target = (length & 0x3F) << 8 | raw[at + 1]
            pointers += 1
            if target >= at or pointers > _MAX_POINTERS:
                raise BadResponse("DNS answer has a compression pointer that leads nowhere")
            end = end or at + 2
            at = target
        else:
            raise BadResponse(f"DNS answer has a label of unknown kind {length:#04x}")
    name = b".".join(labels)
    if name.translate(None, _PLAIN) or name.count(b".") != len(labels) - 1:
        return ".".join(map(_escaped, labels)) or ".", end or at + 1
    return name.decode("ascii"), end or at + 1


def _escaped(label: bytes) -> str:
    r"""Write a label as a zone file does (RFC 1035 §5.1): ``\.``, ``\\``, ``\DDD`` for the unprintable."""
    return "".join(
        f"\\{code:03d}" if not 33 <= code < 127 else f"\\{code:c}" if code in b".\\" else chr(code)
        for code in label
    )


def _type_name(number: int) -> str:
    name = _TYPE_NAMES.get(number)
    if name is None:
        import dnslib

        name = str(dnslib.QTYPE[number])
    return name


def _dnslib_text(data: bytes, rtype: int) -> str:
    """Write a record's data as zone-file text.

    dnslib gets the data alone, not the message: compression is not allowed in these types (RFC 3597 §4),
    and its recursive reader could be led through a thousand pointers for each record.
    """
    import dnslib

    buffer = dnslib.DNSBuffer(data)
    try:
        parser = dnslib.RDMAP.get(dnslib.QTYPE.get(rtype), dnslib.RD)
        text = str(parser.parse(buffer, len(data)))
    except Exception as error:  # dnslib raises whatever its parsers run into
        raise BadResponse(f"dnslib cannot read a {_type_name(rtype)} record: {error}") from error
    if buffer.remaining():
        raise BadResponse(f"DNS answer has a {_type_name(rtype)} record of a wrong length")
    return text

"""DNS answers: a thin view of the received message, parsed when it is read.

dnslib takes 22 to 34 µs for an answer; this takes 1 to 3 µs for a record of the types that make up nearly all
traffic. ``dns_data`` reads the others.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from ..errors import BadResponse
from .dns_data import data_text, generic_text, quoted
from .dns_name import MAX_NAME_BYTES, absolute, plain_name, read_name
from .dns_types import NUMBERS, type_name

_HEADER_BYTES = 12
_TO_QUESTION = b"\xc0\x0c"
"""The usual owner of a record: a pointer to the question's name, right after the header."""

_RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
    6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 11: "DSOTYPENI",
    16: "BADVERS", 17: "BADKEY", 18: "BADTIME", 19: "BADMODE", 20: "BADNAME", 21: "BADALG", 22: "BADTRUNC",
    23: "BADCOOKIE",
}  # fmt: skip

_IN = 1
_A, _SOA, _MX, _TXT, _AAAA, _SRV, _OPT = (
    NUMBERS[name] for name in ("A", "SOA", "MX", "TXT", "AAAA", "SRV", "OPT")
)
_ONE_NAME = frozenset(NUMBERS[name] for name in ("NS", "CNAME", "PTR", "DNAME"))
_MAX_TTL_S = 2**31 - 1

_RECORD = Struct(">HHIH").unpack_from
_TWO = Struct(">HH").unpack_from
_THREE = Struct(">HHH").unpack_from
_FIVE = Struct(">5I").unpack_from

_ONE = b"\x00\x01"
_LONGEST_NAME_END = _HEADER_BYTES + MAX_NAME_BYTES
_new = tuple.__new__


class DnsText(str):
    """The strings of a TXT record, joined; octets that are not UTF-8 as ``\\xNN``.

    Attributes:
        strings: the strings as received.
    """

    __module__ = "reqpool.kinds.dns_answer"  # where apps find it, in pickles too
    __slots__ = ("strings",)

    strings: tuple[bytes, ...]

    def __new__(cls, strings: tuple[bytes, ...]) -> DnsText:
        """Join the strings."""
        text = super().__new__(cls, b"".join(strings).decode("utf-8", "backslashreplace"))
        text.strings = strings
        return text

    def __getnewargs__(self) -> tuple[tuple[bytes, ...]]:  # type: ignore[override]
        return (self.strings,)


class DnsRecord(NamedTuple):
    """One resource record.

    Attributes:
        name: the owner, without the final dot (``"."`` is the root), in the case in which the server sent it;
            octets with a meaning in zone files are escaped.
        type: ``"A"``, ``"MX"``, …; ``"TYPE65280"`` for a type without a name. Data that is invalid for its
            type is shown like that of a type without a name: ``"TYPE1"``, ``r"\\# 2 7F00"``.
        ttl: seconds; 0 if it is over 2**31 - 1 (RFC 2181 §8).
        value: by type:
            A, AAAA: the address as str. CNAME, NS, PTR, DNAME: the name as str.
            MX: (preference, exchange). SRV: (priority, weight, port, target).
            SOA: (mname, rname, serial, refresh, retry, expire, minimum), spans in seconds.
            TXT: :class:`DnsText`, a str with the ``strings`` that it was joined from.
            All others: zone-file text, the same as ``text``.
    """

    name: str
    type: str
    ttl: int
    value: Any

    @property
    def text(self) -> str:
        """The data as in a zone file: names with their final dot, strings in quotes."""
        value = self.value
        if isinstance(value, DnsText):
            return " ".join(map(quoted, value.strings))
        if self.type in ("CNAME", "NS", "PTR", "DNAME"):
            return absolute(value)
        if type(value) is tuple:  # of MX, SRV and SOA
            return " ".join(absolute(one) if isinstance(one, str) else str(one) for one in value)
        return str(value)

    def __str__(self) -> str:
        """Return the record as a line of a zone file, with tabs as dig prints it."""
        return f"{absolute(self.name)}\t{self.ttl}\tIN\t{self.type}\t{self.text}"


_Section = tuple[tuple[DnsRecord, ...], int, int]
"""Its records, the index of its end, and its OPT's upper bits of the rcode. A tuple, for speed."""


DnsRecord.__module__ = "reqpool.kinds.dns_answer"


class DnsAnswer:
    """A name server's answer. NXDOMAIN and other refusals are answers, too: see ``rcode``.

    Each part is parsed when it is first read, so all attributes except ``raw``, ``rcode``, ``truncated`` and
    ``authoritative`` raise BadResponse if the part is so malformed that the records after it cannot be found.
    A record with invalid data does not hide others, see :class:`DnsRecord`. Records of other classes than IN,
    which was requested, are only in ``raw`` and ``message``. May be used from any thread.

    Attributes:
        raw: the message as received.
    """

    __module__ = "reqpool.kinds.dns_answer"
    __slots__ = ("_additional", "_answers", "_authority", "_question", "raw")

    def __init__(self, raw: bytes) -> None:
        """Wrap a message.

        Raises:
            BadResponse: it is too short for a header, or not an answer.
        """
        if len(raw) < _HEADER_BYTES or raw[2] < 0x80:
            raise BadResponse(f"not a DNS answer: {len(raw)} bytes, {raw[:_HEADER_BYTES].hex()}")
        self.raw = raw
        # Each is set by one assignment: two threads that read at the same time do the work twice, no more.
        self._question: tuple[str, int, int] | None = None
        self._answers: _Section | None = None
        self._authority: _Section | None = None
        self._additional: _Section | None = None
        if len(raw) == _HEADER_BYTES and raw[3] & 0x0F:
            # A refusal that is only a header. Its counts, if it has any, are those of the query.
            self._question = ("", 0, _HEADER_BYTES)
            self._answers = self._authority = self._additional = ((), _HEADER_BYTES, 0)

    @property
    def records(self) -> tuple[DnsRecord, ...]:
        """The answer section, in the server's order."""
        return (self._answers or self._parse_answers())[0]

    @property
    def authority(self) -> tuple[DnsRecord, ...]:
        """The authority section."""
        return (self._authority or self._parse_authority())[0]

    @property
    def additional(self) -> tuple[DnsRecord, ...]:
        """The additional section, without the OPT pseudo-record (it is in ``message``)."""
        return (self._additional or self._parse_additional())[0]

    @property
    def rcode(self) -> str:
        """``"NOERROR"``, ``"NXDOMAIN"``, ``"SERVFAIL"``, …; ``"RCODE12"`` for a number without a name."""
        number = self.rcode_number
        return _RCODES.get(number) or f"RCODE{number}"

    @property
    def rcode_number(self) -> int:
        """The response code, with the upper 8 bits of EDNS (RFC 6891 §6.1.3) if they are readable."""
        raw = self.raw
        low = raw[3] & 0x0F
        if raw[10] == raw[11] == 0:  # no additional record, so no OPT
            return low
        try:
            return low | (self._additional or self._parse_additional())[2] << 4
        except BadResponse:
            return low

    @property
    def name(self) -> str:
        """The requested name, without the final dot; ``""`` if the answer does not repeat the question."""
        return (self._question or self._parse_question())[0]

    @property
    def rtype(self) -> str:
        """The requested type; ``""`` if the answer does not repeat the question."""
        number = (self._question or self._parse_question())[1]
        return type_name(number) if number else ""

    @property
    def truncated(self) -> bool:
        """TC: the answer was too long to be sent in full."""
        return bool(self.raw[2] & 0x02)

    @property
    def authoritative(self) -> bool:
        """AA: the server answers for its own zone."""
        return bool(self.raw[2] & 0x04)

    @property
    def message(self) -> Any:
        """The whole message as a new ``dnslib.DNSRecord``.

        dnslib reads all of it or nothing, and has different names for some types.
        """
        import dnslib

        try:
            return dnslib.DNSRecord.parse(self.raw)
        except Exception as error:  # dnslib's parsers raise any exception
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
                name, at = read_name(raw, _HEADER_BYTES)
                question = (name, _TWO(raw, at)[0], at + 4)
            except (IndexError, StructError) as error:
                raise BadResponse("DNS answer ends within its question") from error
        else:
            raise BadResponse(f"DNS answer repeats {count} questions; only one was asked")
        self._question = question
        return question

    def _parse_answers(self) -> _Section:
        raw, question = self.raw, self._question
        if question is None:
            # What nearly every question is: one, with a name whose only zero byte is its last.
            end = raw.find(0, _HEADER_BYTES) + 1
            name = None
            if raw[4:6] == _ONE and _HEADER_BYTES < end <= min(_LONGEST_NAME_END, len(raw) - 4):
                name = plain_name(raw[_HEADER_BYTES:end])
            if name is None:
                question = self._parse_question()
            else:
                question = self._question = (name, raw[end] << 8 | raw[end + 1], end + 4)
        at = question[2]
        section = self._answers = self._read_section(at, 6)
        return section

    def _parse_authority(self) -> _Section:
        at = (self._answers or self._parse_answers())[1]
        section = self._authority = self._read_section(at, 8)
        return section

    def _parse_additional(self) -> _Section:
        at = (self._authority or self._parse_authority())[1]
        section = self._additional = self._read_section(at, 10)
        return section

    def _read_section(self, at: int, count_at: int) -> _Section:
        """Read the section that begins at ``at``, and whose records are counted at ``count_at``."""
        raw = self.raw
        question = (self._question or self._parse_question())[0]
        count = raw[count_at] << 8 | raw[count_at + 1]
        records: list[DnsRecord] = []
        rcode_high = 0
        try:
            for _ in range(count):
                if raw.startswith(_TO_QUESTION, at) and question:
                    name = question
                    at += 2
                else:
                    name, at = read_name(raw, at)
                rtype, rclass, ttl, size = _RECORD(raw, at)
                at += 10
                end = at + size
                if end > len(raw):
                    raise BadResponse(f"DNS answer ends within a record of {name}")
                if rtype == _OPT:
                    rcode_high = ttl >> 24
                elif rclass == _IN:
                    if ttl > _MAX_TTL_S:
                        ttl = 0  # RFC 2181 §8
                    if rtype == _A and size == 4:
                        records.append(_new(DnsRecord, (name, "A", ttl, inet_ntop(AF_INET, raw[at:end]))))
                    else:
                        value = _read_value(raw, at, end, rtype)
                        if value is None:
                            odd = generic_text(raw[at:end])
                            records.append(_new(DnsRecord, (name, f"TYPE{rtype}", ttl, odd)))
                        else:
                            records.append(_new(DnsRecord, (name, type_name(rtype), ttl, value)))
                # else of a class that was not asked for: a CH A is not an IPv4 address
                at = end
        except (IndexError, StructError) as error:
            raise BadResponse(f"DNS answer ends within a section of {count} records") from error
        return tuple(records), at, rcode_high


def _read_value(raw: bytes, at: int, end: int, rtype: int) -> Any:
    """Read a record's data; None if it is invalid for its type, or does not fill its length exactly."""
    value: Any
    try:
        if rtype == _AAAA:
            value, at = inet_ntop(AF_INET6, raw[at:end]), end
        elif rtype in _ONE_NAME:
            value, at = read_name(raw, at)
        elif rtype == _MX:
            exchange, after = read_name(raw, at + 2)
            value, at = (raw[at] << 8 | raw[at + 1], exchange), after
        elif rtype == _TXT:
            value, at = _read_strings(raw, at, end), end
        elif rtype == _SRV:
            target, after = read_name(raw, at + 6)
            value, at = (*_THREE(raw, at), target), after
        elif rtype == _SOA:
            mname, at = read_name(raw, at)
            rname, at = read_name(raw, at)
            value, at = (mname, rname, *_FIVE(raw, at)), at + 20
        elif rtype == _A:  # not of 4 octets, or it would not be here
            return None
        else:
            return data_text(raw, at, end, rtype)
    except (IndexError, StructError, ValueError, BadResponse):
        return None
    return value if at == end else None


def _read_strings(raw: bytes, at: int, end: int) -> DnsText | None:
    strings = []
    while at < end:
        stop = at + 1 + raw[at]
        strings.append(raw[at + 1 : stop])
        at = stop
    # A TXT without any string is not allowed, but read as an empty string (RFC 6763 §6.1).
    return DnsText(tuple(strings) or (b"",)) if at == end else None

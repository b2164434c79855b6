r"""A record's data as zone-file text, for types without a Python value in ``dns_answer``.

Most types are a sequence of a few fields, so they are in a table. Data without a better form in zone files is
written in the form for any type, RFC 3597 §5: ``\# 4 7F000001``.

Names are decompressed in every type that has them. RFC 3597 §4 requires it for the types of RFC 1035 and for
RP, AFSDB, RT, SIG, PX, NXT, NAPTR and SRV; servers also compress in others, and it is unambiguous.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from socket import AF_INET, AF_INET6, inet_ntop
from struct import error as StructError

from ..errors import BadResponse
from .dns_name import absolute, read_name
from .dns_types import NUMBERS, type_name

_LAYOUTS = {
    "MD": "n", "MF": "n", "MB": "n", "MG": "n", "MR": "n", "NSAP-PTR": "n",
    "MINFO": "nn", "RP": "nn", "TALINK": "nn",
    "AFSDB": "2n", "RT": "2n", "KX": "2n", "LP": "2n", "PX": "2nn", "NAPTR": "22sssn", "DSYNC": "R12n",
    "HINFO": "ss", "X25": "s", "GPOS": "sss",
    "ISDN": "S", "SPF": "S", "NINFO": "S", "AVC": "S", "RESINFO": "S", "WALLET": "S", "CLA": "S",
    "URI": "22u", "CAA": "1wq", "NSAP": "o",
    "SIG": "R114tt2nb", "RRSIG": "R114tt2nb",
    "KEY": "K", "DNSKEY": "211b", "CDNSKEY": "211b", "RKEY": "211b", "CERT": "221b",
    "OPENPGPKEY": "b", "DHCID": "b", "HHIT": "b", "BRID": "b",
    "DS": "211x", "CDS": "211x", "DLV": "211x", "TA": "211x",
    "SSHFP": "11x", "TLSA": "111x", "SMIMEA": "111x", "ZONEMD": "411x",
    "NSEC": "nT", "NSEC3": "112hHT", "NSEC3PARAM": "112h", "CSYNC": "42T", "NXT": "nO",
    "NID": "2l", "L64": "2l", "L32": "2a", "EUI48": "6", "EUI64": "8",
    "LOC": "L", "SVCB": "2nP", "HTTPS": "2nP",
}  # fmt: skip
"""The fields in order, each a letter of :data:`_FIELDS`."""
_BY_NUMBER = {NUMBERS[name]: layout for name, layout in _LAYOUTS.items()}

_SVC_KEYS = ("mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint")
"""RFC 9460 §14.3.2. Later keys are written as ``key7``, which every parser of zone files accepts."""


def data_text(raw: bytes, at: int, end: int, rtype: int) -> str | None:
    """Write the data from ``at`` to ``end`` as zone-file text; None if it is invalid for its type."""
    layout = _BY_NUMBER.get(rtype)
    if layout is None:
        return generic_text(raw[at:end])
    data = _Data(raw, at, end)
    try:
        words = [_FIELDS[field](data) for field in layout]
    except (IndexError, ValueError, StructError, BadResponse):
        return None
    return " ".join(filter(None, words)) if data.at == end else None


def generic_text(data: bytes) -> str:
    """Write any data in the form of RFC 3597 §5."""
    return f"\\# {len(data)} {data.hex().upper()}".rstrip()


def quoted(octets: bytes) -> str:
    r"""Write a character-string (RFC 1035 §5.1): in quotes, with ``\DDD`` for all but printable ASCII."""
    return '"' + "".join(map(_QUOTED.__getitem__, octets)) + '"'


_QUOTED = [
    f"\\{code:03d}" if not 32 <= code < 127 else f"\\{code:c}" if code in b'"\\' else chr(code)
    for code in range(256)
]


class _Data:
    """A reader of a record's data, which raises IndexError at its end."""

    def __init__(self, raw: bytes, at: int, end: int) -> None:
        self._raw = raw
        self.at = at
        self._end = end

    @property
    def left(self) -> int:
        return self._end - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise IndexError
        self.at += size
        return self._raw[self.at - size : self.at]

    def rest(self) -> bytes:
        """Read the rest, which must not be empty: zone files cannot represent that."""
        if not self.left:
            raise IndexError
        return self.take(self.left)

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.uint(1))

    def name(self) -> str:
        name, self.at = read_name(self._raw, self.at)
        return absolute(name)


# --- fields --------------------------------------------------------------------------------------


def _strings(data: _Data) -> str:
    words = [quoted(data.string())]
    while data.left:
        words.append(quoted(data.string()))
    return " ".join(words)


def _word(data: _Data) -> str:
    """CAA's tag: letters and digits (RFC 8659 §4.1)."""
    tag = data.string().decode("ascii")
    if not tag.isalnum():
        raise ValueError
    return tag


def _key(data: _Data) -> str:
    """Flags, protocol, algorithm, and the key unless the flags say that there is none (RFC 2535 §7.1)."""
    flags = data.uint(2)
    words = [str(flags), str(data.uint(1)), str(data.uint(1))]
    if flags & 0xC000 != 0xC000:
        words.append(base64.b64encode(data.rest()).decode("ascii"))
    return " ".join(words)


def _time(data: _Data) -> str:
    return datetime.fromtimestamp(data.uint(4), UTC).strftime("%Y%m%d%H%M%S")


def _windows(data: _Data) -> str:
    """The types in an NSEC's bit maps (RFC 4034 §4.1.2)."""
    types: list[str] = []
    last = -1
    while data.left:
        window, size = data.uint(1), data.uint(1)
        if window <= last or not 1 <= size <= 32:
            raise ValueError
        last = window
        types += _bits(data.take(size), window << 8)
    return " ".join(types)


def _bits(octets: bytes, first: int) -> list[str]:
    if not first and octets[:1] >= b"\x80":
        raise ValueError  # there is no type 0
    return [type_name(first + bit) for bit in range(len(octets) * 8) if octets[bit >> 3] & 0x80 >> (bit & 7)]


def _salt(data: _Data) -> str:
    return data.string().hex().upper() or "-"


def _next_hash(data: _Data) -> str:
    """NSEC3's next owner: base32hex without padding (RFC 5155 §3.3)."""
    octets = data.string()
    if not octets:
        raise ValueError
    return base64.b32hexencode(octets).decode("ascii").rstrip("=")


def _dashed(data: _Data, size: int) -> str:
    return data.take(size).hex("-")


def _location(data: _Data) -> str:
    """RFC 1876 §3."""
    if data.uint(1):
        raise ValueError
    sizes_cm = [_centimetres(data.uint(1)) for _ in range(3)]
    latitude = _degrees(data.uint(4) - (1 << 31), 90, "NS")
    longitude = _degrees(data.uint(4) - (1 << 31), 180, "EW")
    altitude_cm = data.uint(4) - 10_000_000
    return " ".join((latitude, longitude, *map(_metres, (altitude_cm, *sizes_cm))))


def _centimetres(octet: int) -> int:
    digit, exponent = octet >> 4, octet & 0x0F
    if digit > 9 or exponent > 9:
        raise ValueError
    return int(digit * 10**exponent)


def _metres(span_cm: int) -> str:
    return f"{'-' * (span_cm < 0)}{abs(span_cm) // 100}.{abs(span_cm) % 100:02d}m"


def _degrees(angle_mas: int, most: int, sides: str) -> str:
    """An angle in thousandths of a second of arc."""
    size = abs(angle_mas)
    if size > most * 3_600_000:
        raise ValueError
    seconds, thousandths = divmod(size, 1000)
    return f"{seconds // 3600} {seconds // 60 % 60} {seconds % 60}.{thousandths:03d} {sides[angle_mas < 0]}"


def _service_parameters(data: _Data) -> str:
    """RFC 9460 §2.1 and appendix A."""
    words = []
    last = -1
    while data.left:
        key, value = data.uint(2), data.take(data.uint(2))
        if key <= last:
            raise ValueError
        last = key
        text = _service_value(key, value)
        words.append(_service_key(key) if text is None else f"{_service_key(key)}={text}")
    return " ".join(words)


def _service_key(key: int) -> str:
    return _SVC_KEYS[key] if key < len(_SVC_KEYS) else f"key{key}"


def _service_value(key: int, value: bytes) -> str | None:
    data = _Data(value, 0, len(value))
    items: list[str] = []
    match _service_key(key):
        case "mandatory":
            while data.left or not items:
                items.append(_service_key(data.uint(2)))
        case "alpn":
            protocols: list[bytes] = []
            while data.left or not protocols:
                protocols.append(data.string())
            if not all(protocols):
                raise ValueError
            # A list within a string: commas are escaped for the list, backslashes once more for the string.
            return quoted(b",".join(p.replace(b"\\", rb"\\").replace(b",", rb"\,") for p in protocols))
        case "no-default-alpn" if not value:
            return None
        case "port":
            items.append(str(data.uint(2)))
        case "ipv4hint":
            while data.left or not items:
                items.append(inet_ntop(AF_INET, data.take(4)))
        case "ech":
            items.append(base64.b64encode(data.rest()).decode("ascii"))
        case "ipv6hint":
            while data.left or not items:
                items.append(inet_ntop(AF_INET6, data.take(16)))
        case "no-default-alpn":
            raise ValueError
        case _:
            return quoted(data.take(data.left)) if value else None
    if data.left:
        raise ValueError
    return ",".join(items)


_FIELDS: dict[str, Callable[[_Data], str]] = {
    "1": lambda data: str(data.uint(1)),
    "2": lambda data: str(data.uint(2)),
    "4": lambda data: str(data.uint(4)),
    "6": lambda data: _dashed(data, 6),
    "8": lambda data: _dashed(data, 8),
    "H": _next_hash,
    "K": _key,
    "L": _location,
    "O": lambda data: " ".join(_bits(data.take(data.left), 0)),
    "P": _service_parameters,
    "R": lambda data: type_name(data.uint(2)),
    "S": _strings,
    "T": _windows,
    "a": lambda data: inet_ntop(AF_INET, data.take(4)),
    "b": lambda data: base64.b64encode(data.rest()).decode("ascii"),
    "h": _salt,
    "l": lambda data: data.take(8).hex(":", 2),
    "n": _Data.name,
    "o": lambda data: f"0x{data.rest().hex()}",
    "q": lambda data: quoted(data.take(data.left)),
    "s": lambda data: quoted(data.string()),
    "t": _time,
    "u": lambda data: quoted(data.rest()),
    "w": _word,
    "x": lambda data: data.rest().hex().upper(),
}
"""A letter for each form of a field; for numbers the count of octets; capitals are for long forms."""

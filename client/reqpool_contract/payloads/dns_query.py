"""DNS queries: one question to a name server (RFC 1035 §4)."""

from __future__ import annotations

import re
from functools import lru_cache

from ..errors import UsageError
from ..host_names import to_ascii
from ..masking import without_password
from .dns_types import NUMBERS

EDNS_UDP_BYTES = 1232
"""Largest UDP answer: fits the smallest MTU of IPv6, so no path fragments it (DNS flag day 2020)."""

MAX_NAME_BYTES = 255
"""RFC 1035 §2.3.4, including the length octets and that of the root."""
MAX_LABEL_BYTES = 63

# id 0 (the worker chooses one per attempt), RD, 1 question, 1 additional (OPT).
_HEADER = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01"
# Class IN, then OPT (RFC 6891 §6.1.2): root, type 41, size as class, ttl 0 (version 0, no flags), no options.
_AFTER_TYPE = b"\x00\x01" + b"\x00\x00\x29" + EDNS_UDP_BYTES.to_bytes(2, "big") + b"\x00\x00\x00\x00\x00\x00"
_LENGTH_OCTETS = {length: bytes((length,)) for length in range(1, MAX_LABEL_BYTES + 1)}

_NO_QUESTION = {41: "OPT", 250: "TSIG", 251: "IXFR", 252: "AXFR"}
"""Types that cannot be looked up: parts of messages, and zone transfers (many messages, not one answer)."""

_ASKABLE = {name: number for name, number in NUMBERS.items() if number not in _NO_QUESTION}

_ESCAPE = re.compile(r"\\(?:([0-9]{3})|(.)|$)", re.DOTALL)


# Names repeat in real use; a hit costs a third of encoding the query again.
@lru_cache(maxsize=4096)
def query(name: str, rtype: str | int) -> bytes:
    """Encode a question for one name and type: recursion desired, class IN, EDNS 0, id 0.

    Args:
        name: as for :meth:`Pool.dns`: ASCII with zone-file escapes, or Unicode.
        rtype: the type's name or number.

    Raises:
        UsageError: one of them cannot be looked up; the text contains it.
        TypeError: one cannot be hashed.
    """
    number = _ASKABLE.get(rtype) or _type_number(rtype)  # type: ignore[arg-type]
    try:
        labels = name.encode("ascii").split(b".")
        # KeyError: a label that is empty or too long.
        wire_name = b"".join([_LENGTH_OCTETS[len(label)] + label for label in labels])
        if len(wire_name) >= MAX_NAME_BYTES or "\\" in name:
            raise KeyError
    except (KeyError, UnicodeEncodeError, AttributeError):
        wire_name = b""  # errors below must not have a cause: a UnicodeEncodeError holds the whole name
    wire_name = wire_name or _wire_name(name)
    return b"".join((_HEADER, wire_name, b"\x00", number.to_bytes(2, "big"), _AFTER_TYPE))


def _wire_name(name: str) -> bytes:
    """Encode any name, without the octet of the root; raise UsageError if it is wrong."""
    if not isinstance(name, str):
        hint = "; write name.decode()" if isinstance(name, bytes) else ""
        raise UsageError(f"a DNS name must be a string, not {type(name).__name__}{hint}")
    if name == ".":
        return b""
    if name == "":
        raise UsageError('the DNS name is empty; the root is written "."')
    shown = without_password(name)
    if len(name) > 4 * MAX_NAME_BYTES:  # the longest text has every octet escaped as \\DDD
        raise UsageError(
            f"DNS name {shown[:40]!r}… has {len(name)} characters; the limit is {MAX_NAME_BYTES} octets"
        )
    labels = _split_labels(name, shown)
    if labels[-1] == b"":
        labels.pop()
    for label in labels:
        if not label:
            raise UsageError(f"DNS name {shown!r} has an empty label: two dots in a row, or a leading dot")
        if len(label) > MAX_LABEL_BYTES:
            raise UsageError(
                f"DNS name {shown!r} has a label of {len(label)} octets; the limit is {MAX_LABEL_BYTES}"
            )
    wire_name = b"".join([_LENGTH_OCTETS[len(label)] + label for label in labels])
    if len(wire_name) >= MAX_NAME_BYTES:
        raise UsageError(
            f"DNS name {shown!r} takes {len(wire_name) + 1} octets; the limit is {MAX_NAME_BYTES}"
        )
    return wire_name


def _split_labels(name: str, shown: str) -> list[bytes]:
    """Split at the dots that are not escaped; non-ASCII labels become A-labels."""
    if not name.isascii():
        try:
            ascii_name = to_ascii(name)
        except ValueError as error:
            # The error contains a part of the name, which may be a secret if the name is not shown whole.
            why = f": {error}" if shown == name else ""
        else:
            # UTS 46 does not know escapes: it would end a label at an escaped dot, and change the question.
            if "\\" in ascii_name:
                raise UsageError(
                    f"DNS name {shown!r} has a backslash and non-ASCII characters; write those as xn--…"
                )
            return ascii_name.encode("ascii").split(b".")
        raise UsageError(f"DNS name {shown!r} cannot be encoded as ASCII{why}")
    labels = [bytearray()]
    at = 0
    for escape in _ESCAPE.finditer(name):
        _append_plain(labels, name[at : escape.start()])
        digits, character = escape.groups()
        if digits is None and character is None:
            raise UsageError(f"DNS name {shown!r} ends in a lone backslash; write it \\\\")
        code = int(digits) if digits else ord(character)
        if code > 255:
            raise UsageError(f"DNS name {shown!r}: \\{digits} is not an octet: write \\000 to \\255")
        labels[-1].append(code)
        at = escape.end()
    _append_plain(labels, name[at:])
    return [bytes(label) for label in labels]


def _append_plain(labels: list[bytearray], text: str) -> None:
    first, *others = text.encode("ascii").split(b".")
    labels[-1] += first
    labels.extend(bytearray(other) for other in others)


def _type_number(rtype: str | int) -> int:
    number = 0
    if isinstance(rtype, int):
        number = rtype
    elif isinstance(rtype, str):
        number = _named_type(rtype.upper())
    if not 0 < number <= 0xFFFF:
        shown = without_password(rtype) if isinstance(rtype, str) else rtype
        raise UsageError(
            f'unknown DNS record type {shown!r}; give a name like "AAAA" or "TYPE65", or 1 to 65535'
        )
    if number in _NO_QUESTION:
        raise UsageError(
            f"DNS record type {rtype!r} ({_NO_QUESTION[number]}) cannot be looked up with a single question"
        )
    return number


def _named_type(name: str) -> int:
    generic = re.fullmatch("TYPE([0-9]{1,5})", name)
    return int(generic[1]) if generic else NUMBERS.get(name, 0)

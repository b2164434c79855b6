"""Domain names in messages, and as zone-file text (RFC 1035 §4.1.4, §5.1).

Against hostile messages: a compression pointer must point backwards (RFC 1035 §4.1.4: to a prior occurrence),
a name has at most 255 octets and at most 127 pointers (it cannot have more labels). So time is linear in the
size of the message.
"""

from __future__ import annotations

from functools import lru_cache

from ..errors import BadResponse

MAX_NAME_BYTES = 255
_MAX_POINTERS = 127
_SPECIAL = b'."();@$\\'
"""Printable octets with a meaning in zone files; a dot within a label is one."""
_PLAIN = bytes(code for code in range(33, 127) if code == ord(".") or code not in _SPECIAL)
"""Octets that are unchanged in a name's text; also the dot, since dots are counted instead."""


def read_name(raw: bytes, at: int) -> tuple[str, int]:
    """Read a name, compressed or not; return its text without the final dot, and the index of its end.

    Raises:
        IndexError: the message ends within it.
        BadResponse: it is malformed.
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
            if size > MAX_NAME_BYTES:
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


# Names repeat in real use: a hit costs a fraction of reading the name again.
@lru_cache(maxsize=4096)
def plain_name(encoded: bytes) -> str | None:
    """Return the text of a whole name without compression; None if it is anything else.

    Args:
        encoded: at most 255 octets, of which only the last is zero. So a compression pointer in it stops
            short of its end, or leads nowhere.
    """
    try:
        name, end = read_name(encoded, 0)
    except (IndexError, BadResponse):
        return None
    return name if end == len(encoded) else None


def absolute(name: str) -> str:
    """Return a name with its final dot, without which zone files would complete it."""
    return name if name == "." else f"{name}."


def _escaped(label: bytes) -> str:
    r"""Write a label as a zone file does (RFC 1035 §5.1): ``\.``, ``\\``, ``\DDD`` for the unprintable."""
    return "".join(
        f"\\{code:03d}" if not 33 <= code < 127 else f"\\{code:c}" if code in _SPECIAL else chr(code)
        for code in label
    )

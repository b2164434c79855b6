"""Client half of kind ``memcached``: checks and encodes commands, decodes answers.

The payload is the command in memcached's text protocol, and the worker half returns the answer in the same
form (https://github.com/memcached/memcached/blob/master/doc/protocol.txt, "protocol.txt" below). So the
worker half frames and does not parse, and decoding costs only the app's CPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from reqpool.kinds import Asked, Kind, Route
from reqpool_contract import origin_names
from reqpool_contract.errors import BadResponse, UpstreamError, UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.tls_settings import Tls

DEFAULT_PORT = 11211
MAX_KEY_BYTES = 250
"""protocol.txt, "Keys"."""
MAX_EXPIRE_S = 30 * 24 * 3600
"""protocol.txt, "Expiration times": a higher number is taken for a date, and the item expires at once."""
MAX_KEYS = 10_000
"""In one ``get_many``: 2.5 MB of keys."""
MAX_NUMBER = 2**64 - 1

_NOT_IN_A_KEY = re.compile(rb"[\x00-\x20\x7f]")
_VALUE = re.compile(rb"VALUE (\S+) (\d+) (\d+)(?: (\d+))?\r\n")


class MemcachedError(UpstreamError):
    """memcached answered with an error, e.g. ``SERVER_ERROR object too large for cache``."""


class Item(NamedTuple):
    """What ``gets`` returns.

    Attributes:
        value: as it was stored.
        flags: the number stored beside it, 0 to 2^32 - 1.
        token: changes whenever the item does; ``cas`` stores only if it is still this one.
    """

    value: bytes
    flags: int
    token: int


class MemcachedKind(Kind):
    """Client half of ``memcached``."""

    name: ClassVar[str] = "memcached"
    schemes: ClassVar[tuple[str, ...]] = ("memcached",)

    def encode(
        self, target: str, payload: tuple[Any, ...] | list[Any], *, expire: int = 0, flags: int = 0
    ) -> tuple[Route, bytes, Decoder]:
        """Check one command and encode it.

        ``get``, ``get_many`` and ``gets`` are idempotent. Other commands are only if the caller says so: a
        ``set`` that is tried again may undo another client's in the meantime.

        Args:
            target: ``"127.0.0.1:11211"``, ``"cache.example:11211"``, ``"memcached://cache.example"``, or the
                name of an upstream in ``reqpool.toml``.
            payload: the command's name and its arguments, e.g. ``("get", "k")``.
            expire: how long the stored item lives in seconds, at most 30 days; 0: until memcached needs the
                room. For commands that store.
            flags: a number of 32 bits to store with the item. For commands that store.

        Raises:
            UsageError: if any of these is wrong; the text says what would be right.
        """
        name, arguments = _taken_apart(payload)
        command = _COMMANDS[name]
        if not command.fewest <= len(arguments) <= command.most:
            raise UsageError(f"memcached's {name} takes ({command.takes}), not {len(arguments)} arguments")
        if (expire or flags) and not command.stores:
            raise UsageError(f"{name} stores nothing: expire= and flags= belong to set and the like")
        keys = arguments if name == "get_many" else arguments[:1]
        line = b"%b %b" % (command.word, b" ".join([_key(key) for key in keys]))
        if command.stores:
            value = _bytes(arguments[1])
            line += b" %d %d %d" % (_whole("flags", flags, 2**32 - 1), _expire(expire), len(value))
            if name == "cas":
                line += b" %d" % _whole("token", arguments[2], MAX_NUMBER)
            data = b"%b\r\n%b\r\n" % (line, value)
        elif name in ("incr", "decr"):
            delta = arguments[1] if len(arguments) == 2 else 1
            data = b"%b %d\r\n" % (line, _whole("delta", delta, MAX_NUMBER))
        elif name == "touch":
            data = b"%b %d\r\n" % (line, _expire(arguments[1]))
        else:
            data = line + b"\r\n"
        return _route(target, command.reads), data, command.decoder

    def decode(self, data: bytes, request: Asked) -> Any:
        """Decode the command's value from its answer.

        Raises:
            MemcachedError: if the answer is an error.
            BadResponse: if it cannot be read.
        """
        if data.startswith((b"ERROR", b"CLIENT_ERROR ", b"SERVER_ERROR ")):
            raise MemcachedError(_text(data))
        decoder: Decoder = request.note
        return decoder(data)

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read ``memcached://host[:port]``.

        Raises:
            UsageError: if it is wrong, or asks for a log-in (SASL) or TLS, which this kind does not support.
        """
        parts = origin_names.parse(url, {"memcached": DEFAULT_PORT})
        if parts.user is not None or parts.password is not None or password is not None or tls is not None:
            raise UsageError(
                f"{without_password(url)!r}: this kind does not support passwords or TLS; "
                "reach memcached over a trusted network"
            )
        if parts.path.strip("/") or parts.query:
            raise UsageError(f"{without_password(url)!r}: a memcached URL ends with the port")
        return origin_names.endpoint(f"memcached://{netloc(parts.host, parts.port)}", {})


@lru_cache(maxsize=1024)
def _kept_route(target: str, idempotent: bool) -> Route:
    origin = origin_names.named(target)
    if origin is None:
        origin = KIND.endpoint(target if "://" in target else f"memcached://{target}").origin
    return Route(KIND, (origin,), idempotent)


def _route(target: str, idempotent: bool) -> Route:
    if not isinstance(target, str):
        raise UsageError(
            f"a memcached server must be a string like '127.0.0.1:11211', not {type(target).__name__}"
        )
    return _kept_route(target, idempotent)


# --- answers ---------------------------------------------------------------------------------------

Decoder = Callable[[bytes], Any]
"""Decodes a command's value from an answer that is not an error. It is the note of each request."""


def _items(data: bytes) -> dict[bytes, Item]:
    items = {}
    at = 0
    while data[at : at + 5] != b"END\r\n":
        head = _VALUE.match(data, at)
        if head is None:
            raise BadResponse(f"neither an item nor the end: {_text(data[at : at + 80])!r}")
        end = head.end() + int(head[3])
        items[head[1]] = Item(data[head.end() : end], int(head[2]), int(head[4] or 0))
        at = end + 2
    return items


def _item(data: bytes) -> Item | None:
    """Decode ``gets``: the item, None if there is none."""
    return next(iter(_items(data).values()), None)


def _value(data: bytes) -> bytes | None:
    """Decode ``get``: the value, None if there is none."""
    item = _item(data)
    return None if item is None else item.value


def _values(data: bytes) -> dict[str, bytes]:
    """Decode ``get_many``: the values that exist, by key."""
    return {key.decode(errors="surrogateescape"): item.value for key, item in _items(data).items()}


_DONE = {
    b"STORED\r\n": True,
    b"DELETED\r\n": True,
    b"TOUCHED\r\n": True,
    b"NOT_STORED\r\n": False,
    b"NOT_FOUND\r\n": False,
    b"EXISTS\r\n": False,
}


def _done(data: bytes) -> bool:
    """Decode commands that change something: whether it was done."""
    if data not in _DONE:
        raise BadResponse(f"neither done nor not done: {_text(data)!r}")
    return _DONE[data]


def _number(data: bytes) -> int | None:
    """Decode ``incr`` and ``decr``: the new number, None if there is no such item."""
    if data == b"NOT_FOUND\r\n":
        return None
    try:
        return int(data)
    except ValueError as error:
        raise BadResponse(f"not a number: {_text(data)!r}") from error


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace").rstrip("\r\n")


# --- commands --------------------------------------------------------------------------------------


class _Command:
    """How a command is called.

    Args:
        word: its name on the wire.
        takes: its arguments, as an error shows them.
        decoder: decodes its value.
        reads: whether it changes nothing.
        stores: whether it sends a value.
    """

    def __init__(
        self, word: bytes, takes: str, decoder: Decoder, *, reads: bool = False, stores: bool = False
    ) -> None:
        self.word = word
        self.takes = takes
        self.decoder = decoder
        self.reads = reads
        self.stores = stores
        arguments = takes.split()
        self.fewest = sum(argument[0] != "[" for argument in arguments)
        self.most = MAX_KEYS if takes.endswith("…]") else len(arguments)


_COMMANDS = {
    "get": _Command(b"get", "key", _value, reads=True),
    "get_many": _Command(b"get", "key [key…]", _values, reads=True),
    "gets": _Command(b"gets", "key", _item, reads=True),
    "set": _Command(b"set", "key value", _done, stores=True),
    "add": _Command(b"add", "key value", _done, stores=True),
    "replace": _Command(b"replace", "key value", _done, stores=True),
    "append": _Command(b"append", "key value", _done, stores=True),
    "prepend": _Command(b"prepend", "key value", _done, stores=True),
    "cas": _Command(b"cas", "key value token", _done, stores=True),
    "delete": _Command(b"delete", "key", _done),
    "incr": _Command(b"incr", "key [delta]", _number),
    "decr": _Command(b"decr", "key [delta]", _number),
    "touch": _Command(b"touch", "key expire", _done),
}


def _taken_apart(payload: object) -> tuple[str, list[Any]]:
    if isinstance(payload, tuple | list) and payload and isinstance(payload[0], str):
        name, *arguments = payload
        if name in _COMMANDS:
            return name, arguments
    raise UsageError(
        f'a memcached command must be a tuple like ("get", "k"), not {payload!r:.80}; there are '
        + ", ".join(_COMMANDS)
    )


def _key(key: object) -> bytes:
    if not isinstance(key, str | bytes):
        raise UsageError(f"a memcached key must be str or bytes, not {type(key).__name__}: {key!r}")
    # surrogateescape: a key that get_many returned can be used, whatever its bytes were.
    data = key.encode(errors="surrogateescape") if isinstance(key, str) else key
    if not 0 < len(data) <= MAX_KEY_BYTES:
        raise UsageError(
            f"memcached key {data[:40]!r} has {len(data)} bytes, 1 to {MAX_KEY_BYTES} are allowed: hash it"
        )
    if _NOT_IN_A_KEY.search(data):
        raise UsageError(f"memcached key {data!r} has a space or a control character in it")
    return data


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UsageError(
        f"a memcached value must be bytes or str, not {type(value).__name__}: write str(value), say"
    )


def _whole(name: str, value: object, highest: int) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        raise UsageError(f"{name}={value!r} is not a whole number from 0 to {highest}")
    return value


def _expire(value: object) -> int:
    if type(value) is int and value > MAX_EXPIRE_S:
        raise UsageError(
            f"expire={value} s is over the 30 days ({MAX_EXPIRE_S} s) that memcached can count; 0 means never"
        )
    return _whole("expire", value, MAX_EXPIRE_S)


KIND = MemcachedKind()

"""Header fields of HTTP (RFC 9110 §5): checks of those to send, and a mapping of those received."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reqpool_contract.errors import UsageError
from reqpool_contract.masking import without_password

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_OURS = {
    "content-length": "it is set from the body",
    "transfer-encoding": "bodies are sent with their length",
    "upgrade": "other protocols are not supported",
    "keep-alive": "the pool manages connections",
    "proxy-connection": "the pool manages connections",
}

_CONNECTION_OPTIONS = frozenset((b"close", b"keep-alive"))

Fields = list[tuple[str, bytes]]
"""Fields to send: the name in lower case, and the whole line."""


def is_token(text: str) -> bool:
    """Return whether a text is a token (RFC 9110 §5.6.2), like methods and names of fields."""
    return _TOKEN.fullmatch(text) is not None


def field(name: str | bytes, value: str | bytes) -> tuple[str, bytes]:
    """Check a field and write its line; a str is encoded as Latin-1.

    Raises:
        UsageError: the name is not a token, or the value has CR, LF, NUL or another control character, or is
            a str that is not Latin-1. The text names the field, never the value, which may be a secret.
    """
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str) or not is_token(name):
        shown = without_password(name)
        raise UsageError(f"{shown!r} is not a header name: letters, digits and !#$%&'*+-.^_`|~ are allowed")
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"header {name}: its value is not Latin-1; encode it to bytes yourself"
            ) from error
    elif not isinstance(value, bytes):
        raise UsageError(f"header {name}: its value must be a str or bytes, not {type(value).__name__}")
    if _NOT_IN_VALUES.search(value):
        raise UsageError(f"header {name}: its value has a line break or another control character in it")
    return name.lower(), b"".join((name.encode(), b": ", value.strip(b" \t"), b"\r\n"))


def fields(headers: object) -> Fields:
    """Check a caller's headers.

    Args:
        headers: a mapping, or an iterable of (name, value), in which names may be repeated.

    Raises:
        UsageError: as :func:`field`, and for fields that callers must not set.
    """
    items: Iterable[Any]
    if isinstance(headers, HttpHeaders):
        items = headers.all
    elif isinstance(headers, Mapping):
        items = headers.items()
    elif isinstance(headers, list | tuple):
        items = headers
    else:
        raise UsageError(f"headers= must be a mapping or a list of pairs, not {type(headers).__name__}")
    checked: Fields = []
    for item in items:
        try:
            name, value = item
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"headers= has an item that is not a (name, value) pair: {type(item).__name__}"
            ) from error
        one = field(name, value)
        checked.append(one)
        why = _OURS.get(one[0])
        if why is not None:
            raise UsageError(f"header {name} cannot be set: {why}")
        if one[0] == "authorization" and one[1][15:].lower().startswith(b"ntlm"):
            raise UsageError("NTLM authenticates a connection, and the pool's connections are shared")
        if one[0] == "connection" and not connection_options(one[1]) <= _CONNECTION_OPTIONS:
            raise UsageError(f"header Connection can be 'close' or 'keep-alive', not {value!r}")
    if sum(name == "host" for name, _ in checked) > 1:
        raise UsageError("header Host is given more than once")
    return checked


def connection_options(line: bytes) -> set[bytes]:
    """Return the options in the line of a Connection field, in lower case (RFC 9110 §7.6.1)."""
    return {option.strip(b" \t") for option in line.lower().rstrip().partition(b":")[2].split(b",")}


def basic(user: str | bytes, password: str | bytes) -> str:
    """Return the header value of basic authentication (RFC 7617); a str is encoded as UTF-8.

    Raises:
        UsageError: the user's name has a colon, or there are control characters.
    """
    name, secret = (
        one.encode("utf-8", "surrogatepass") if isinstance(one, str) else one for one in (user, password)
    )
    if b":" in name:
        raise UsageError("a user name cannot contain a colon (RFC 7617)")
    pair = b"%b:%b" % (name, secret)
    if _NOT_IN_VALUES.search(pair):
        raise UsageError("the user name or password has a control character in it (RFC 7617)")
    return f"Basic {base64.b64encode(pair).decode()}"


def bearer(token: str) -> str:
    """Return the header value of a bearer token (RFC 6750).

    Raises:
        UsageError: it is empty, or has spaces or characters that are not printable ASCII.
    """
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("a bearer token must be printable ASCII without spaces")
    return f"Bearer {token}"


def authorization(auth: object) -> str:
    """Return the header value for ``auth=``: (user, password), or a bearer token.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(auth, str):
        return bearer(auth)
    if (
        isinstance(auth, tuple | list)
        and len(auth) == 2
        and all(isinstance(one, str | bytes) for one in auth)
    ):
        return basic(*auth)
    raise UsageError(f"auth= must be (user, password), or a bearer token as str, not {type(auth).__name__}")


class HttpHeaders(Mapping[str, str]):
    """The headers of an answer; names are found in any case, values are decoded as Latin-1.

    ``headers["accept"]`` joins the values of a repeated name with ``", "`` (RFC 9110 §5.3). That cannot be
    undone for Set-Cookie: use :meth:`get_all`.

    Attributes:
        all: every field as received, in order.
    """

    __slots__ = ("_values", "all")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.all = tuple(fields)
        values: dict[str, list[str]] = {}
        for name, value in self.all:
            values.setdefault(name.lower(), []).append(value)
        self._values = values

    @classmethod
    def of_head(cls, head: bytes) -> HttpHeaders:
        """Read the head of an answer, which has been checked already; its first line is skipped."""
        found = []
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                found.append((name, value.strip(" \t")))
        return cls(found)

    def get_all(self, name: str) -> list[str]:
        """Return the values of a name, in order; empty if there are none."""
        return list(self._values.get(name.lower(), ()))

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values[name.lower()])

    def __iter__(self) -> Iterator[str]:
        names: dict[str, str] = {}
        for name, _ in self.all:
            names.setdefault(name.lower(), name)
        return iter(names.values())

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __repr__(self) -> str:
        return f"HttpHeaders({list(self.all)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpHeaders, (self.all,)

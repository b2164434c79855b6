"""Groups: the requests in a message that share everything but their payload, and checks of a peer's groups.

A group that is malformed or over a limit is replaced by a :class:`BadGroup` wherever possible, so that the
others of its message are used. The records are used as ``wire.NAME``, like all of the contract.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Any, NamedTuple

import msgpack

from .checks import (
    ID_BYTES,
    Check,
    array,
    blob,
    boolean,
    identity,
    optional_blob,
    optional_uint,
    record,
    text,
    uint,
    watermark,
)
from .errors import ProtocolError
from .limits import (
    LOWEST_PRIORITY,
    MAX_BATCH_REQUESTS,
    MAX_ERROR_BYTES,
    MAX_KIND_CHARS,
    MAX_ORIGIN_CHARS,
    MAX_ORIGINS,
    MAX_PAYLOAD_BYTES,
    MAX_REFUSED_REQUESTS,
    MAX_SETTINGS_BYTES,
    MAX_SPAN_MS,
    MAX_SUBMIT_BYTES,
)


class Flag(IntFlag):
    """Bits of a request group's ``flags``."""

    IDEMPOTENT = 1
    """The requests may run more than once."""
    RESUBMITTED = 2
    """The client sent them before, on an earlier connection."""
    OPENS = 4
    """The first request of its pin: reserve a connection for it."""
    SENT = 8
    """For a lease group: an earlier attempt may have reached the upstream."""
    OTHERS = 16
    """For a lease group: there are other origins to try after this one."""


class SubmitGroup(NamedTuple):
    """Requests of one SUBMIT that share everything but their payload.

    Attributes:
        kind: registered name of the kind.
        origins: upstreams to try in turn, at least one.
        span_ms: the rest of the timeout when the message was sent.
        flags: :class:`Flag` bits.
        priority: 0 (first) to 2 (last).
        pin: the client's number of the pinned connection, or None.
        trace: trace context, passed through unchanged, or None.
        seqs: sequence numbers, u64, in any order, each once in a session's life.
        payloads: one for each of ``seqs``.
        settings: what the kind's worker half needs for a connection; empty if it needs nothing.
        kept: number under which the receiver keeps the settings (then ``settings`` is empty), or None.
        watermark: with flag RESUBMITTED: no worker whose death was counted up to this had the requests;
            otherwise empty.
    """

    kind: str
    origins: tuple[str, ...]
    span_ms: int
    flags: int
    priority: int
    pin: int | None
    trace: bytes | None
    seqs: tuple[int, ...]
    payloads: tuple[bytes, ...]
    settings: bytes = b""
    kept: int | None = None
    watermark: bytes = b""


class LeaseGroup(NamedTuple):
    """Requests leased to one worker that share everything but their payload.

    Attributes:
        session: id of the session that submitted them.
        kind: registered name of the kind.
        origin: the upstream of this attempt.
        span_ms: time for this attempt.
        flags: :class:`Flag` bits.
        attempt: 1 for the first.
        pin: as in :class:`SubmitGroup`.
        trace: as in :class:`SubmitGroup`.
        seqs: sequence numbers.
        payloads: one for each of ``seqs``.
        settings: as in :class:`SubmitGroup`.
        wait_ms: how long it may wait for a connection; None: as long as ``span_ms``.
        kept: as in :class:`SubmitGroup`.
        queued_ms: how long the requests have waited for this attempt.
    """

    session: bytes
    kind: str
    origin: str
    span_ms: int
    flags: int
    attempt: int
    pin: int | None
    trace: bytes | None
    seqs: tuple[int, ...]
    payloads: tuple[bytes, ...]
    settings: bytes = b""
    wait_ms: int | None = None
    kept: int | None = None
    queued_ms: int = 0


class FailedAttempts(NamedTuple):
    """Attempts of a RETRY that ended for one reason: without an outcome, or with one that another origin may
    improve on.

    Attributes:
        session: id of the session.
        seqs: sequence numbers.
        code: the outcome if nothing else can be tried (:class:`~reqpool_contract.errors.Code`).
        sent: whether the upstream could have acted on them.
        details: msgpack map of :func:`encode_error`; with code 0, the answer.
    """

    session: bytes
    seqs: tuple[int, ...]
    code: int
    sent: bool
    details: bytes


class BadGroup(NamedTuple):
    """A group that is malformed or over a limit, in a message whose other groups are not.

    Attributes:
        session: id of the session; empty in a SUBMIT, which comes from the session, or if it is unreadable.
        seqs: its requests; empty if they are unreadable.
        resubmitted: whether they may be known already.
        text: what is wrong.
    """

    session: bytes
    seqs: tuple[int, ...]
    resubmitted: bool
    text: str


_INT = {int}
_RESUBMITTED = int(Flag.RESUBMITTED)
_BYTES = {bytes}


def origin(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= MAX_ORIGIN_CHARS:
        raise ProtocolError(f"expected an origin: a string of 1 to {MAX_ORIGIN_CHARS} characters")
    return value


def seqs(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or not value or set(map(type, value)) != _INT or min(value) < 0:
        raise ProtocolError("expected sequence numbers: a non-empty array of unsigned integers")
    return value


def _is_payload(value: Any) -> bool:
    return type(value) is bytes or hasattr(value, "buffer")


def _payloads(value: Any) -> tuple[bytes, ...]:
    # A payload from a separate frame may be a zmq.Frame; no value from msgpack has a buffer.
    if type(value) is not tuple or not value or not all(map(_is_payload, value)):
        raise ProtocolError("expected payloads: a non-empty array of bytes")
    if max(map(len, value)) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a payload is larger than {MAX_PAYLOAD_BYTES >> 20} MiB")
    return value


def _origins(value: Any) -> tuple[str, ...]:
    if type(value) is not tuple or not 0 < len(value) <= MAX_ORIGINS:
        raise ProtocolError(f"expected 1 to {MAX_ORIGINS} origins")
    return tuple(origin(item) for item in value)


def kind_name(value: Any) -> str:
    if not 0 < len(text(value)) <= MAX_KIND_CHARS:
        raise ProtocolError(f"expected a kind's name: a string of 1 to {MAX_KIND_CHARS} characters")
    return str(value)


def _span(value: Any) -> int:
    if uint(value) > MAX_SPAN_MS:
        raise ProtocolError("span is more than 24 h")
    return int(value)


def _priority(value: Any) -> int:
    if uint(value) > LOWEST_PRIORITY:
        raise ProtocolError("priority is not 0, 1 or 2")
    return int(value)


def _matched(make: type[Any]) -> Callable[..., Any]:
    def made(*values: Any) -> Any:
        group = make(*values)
        if len(group.seqs) != len(group.payloads) or len(group.seqs) > MAX_BATCH_REQUESTS:
            raise ProtocolError(f"seqs and payloads differ in length, or are more than {MAX_BATCH_REQUESTS}")
        return group

    return made


def connection_settings(value: Any) -> bytes:
    if len(blob(value)) > MAX_SETTINGS_BYTES:
        raise ProtocolError(f"settings of {len(value)} bytes; at most {MAX_SETTINGS_BYTES} are allowed")
    return bytes(value)


_explained_group = record(
    _matched(SubmitGroup),
    text, _origins, _span, uint, _priority, optional_uint, optional_blob, seqs, _payloads,
    connection_settings, optional_uint, watermark,
)  # fmt: skip
_explained_lease_group = record(
    _matched(LeaseGroup),
    identity, text, origin, _span, uint, uint, optional_uint, optional_blob, seqs, _payloads,
    connection_settings, optional_uint, optional_uint, uint,
)  # fmt: skip


def _are_requests(numbers: Any, payloads: Any) -> bool:
    return (
        type(numbers) is tuple
        and type(payloads) is tuple
        and 0 < len(numbers) == len(payloads) <= MAX_BATCH_REQUESTS
        and set(map(type, numbers)) == _INT
        and min(numbers) >= 0
        and set(map(type, payloads)) == _BYTES
        and max(map(len, payloads)) <= MAX_PAYLOAD_BYTES
    )


def _group(value: Any) -> SubmitGroup:
    """Accept a group of the usual form at once, and check any other field by field."""
    if type(value) is tuple and 9 <= len(value) < 12:
        value = (*value, *(b"", None, b"")[len(value) - 9 :])  # trailing fields may be omitted
    if type(value) is tuple and len(value) >= 12:
        kind, origins, span_ms, flags, priority, pin, trace, numbers, payloads, settings = value[:10]
        if (
            pin is None
            and trace is None
            and type(kind) is str
            and type(origins) is tuple
            and len(origins) == 1
            and type(origins[0]) is str
            and 0 < len(origins[0]) <= MAX_ORIGIN_CHARS
            and type(span_ms) is int
            and 0 <= span_ms <= MAX_SPAN_MS
            and type(flags) is int
            and flags >= 0
            and type(priority) is int
            and 0 <= priority <= LOWEST_PRIORITY
            and _are_requests(numbers, payloads)
            and type(settings) is bytes
            and len(settings) <= MAX_SETTINGS_BYTES
            and value[10] is None
            and value[11] == b""
        ):
            return SubmitGroup._make(value[:12])
    group: SubmitGroup = _explained_group(value)
    return group


def _lease_group(value: Any) -> LeaseGroup:
    """As :func:`_group`."""
    if type(value) is tuple and 10 <= len(value) < 14:
        # From a peer that does not know settings and the fields after them.
        value = (*value, *(b"", None, None, 0)[len(value) - 10 :])
    if type(value) is tuple and len(value) >= 14:
        session, kind, name, span_ms, flags, attempt, pin, trace, numbers, payloads, settings = value[:11]
        if (
            pin is None
            and trace is None
            and type(session) is bytes
            and len(session) == ID_BYTES
            and type(kind) is str
            and type(name) is str
            and 0 < len(name) <= MAX_ORIGIN_CHARS
            and type(span_ms) is int
            and 0 <= span_ms <= MAX_SPAN_MS
            and type(flags) is int
            and flags >= 0
            and type(attempt) is int
            and attempt >= 0
            and _are_requests(numbers, payloads)
            and type(settings) is bytes
            and len(settings) <= MAX_SETTINGS_BYTES
            and value[11] is None
            and value[12] is None
            and type(value[13]) is int
            and value[13] >= 0
        ):
            return LeaseGroup._make(value[:14])
    group: LeaseGroup = _explained_lease_group(value)
    return group


def submit_groups(value: Any) -> list[SubmitGroup | BadGroup]:
    """Return the groups of a SUBMIT. If one cannot be used, only its requests fail, if they can be named."""
    if type(value) is not tuple:
        raise ProtocolError(f"expected an array, got {type(value).__name__}")
    groups: list[SubmitGroup | BadGroup] = []
    count = size_bytes = refused = 0
    for item in value:
        try:
            group = _group(item)
            count += len(group.seqs)
            size_bytes += sum(map(len, group.payloads))
            if count > MAX_BATCH_REQUESTS:
                raise ProtocolError(f"more than {MAX_BATCH_REQUESTS} requests in one message")
            if size_bytes > MAX_SUBMIT_BYTES:
                raise ProtocolError(f"payloads of more than {MAX_SUBMIT_BYTES >> 20} MiB in one message")
        except ProtocolError as error:
            unread = _unread(item, None, 7, error.text)
            refused += len(unread.seqs)
            if not unread.seqs or refused > MAX_REFUSED_REQUESTS:
                # Its requests cannot be named, or are too many: the whole message is refused.
                raise
            flags = item[3]
            groups.append(unread._replace(resubmitted=type(flags) is not int or bool(flags & _RESUBMITTED)))
        else:
            groups.append(group)
    return groups


def _unread(value: Any, session_at: int | None, seqs_at: int, text: str) -> BadGroup:
    """Read from a malformed group what is needed to end its requests: session and seqs, by index."""
    try:
        session = b"" if session_at is None else identity(value[session_at])
        return BadGroup(session, seqs(value[seqs_at]), True, text)
    except (ProtocolError, LookupError, TypeError):
        return BadGroup(b"", (), True, text)


def _each(check: Check, session_at: int, seqs_at: int) -> Check:
    """Return a check for an array of groups, which replaces each malformed one by a :class:`BadGroup`."""

    def checked(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise ProtocolError(f"expected an array, got {type(value).__name__}")
        groups = []
        for item in value:
            try:
                groups.append(check(item))
            except ProtocolError as error:
                groups.append(_unread(item, session_at, seqs_at, error.text))
        return groups

    return checked


def _details(value: Any) -> bytes:
    if len(blob(value)) <= MAX_ERROR_BYTES:
        return bytes(value)
    text = f"an error of {len(value)} bytes, which is too long to pass on"
    packed: bytes = msgpack.packb({"text": text})
    return packed


failures = _each(record(FailedAttempts, identity, seqs, uint, boolean, _details), 0, 1)
session_seqs = _each(record(lambda session, numbers: (session, numbers), identity, seqs), 0, 1)
session_results = _each(record(lambda *values: values, identity, seqs, uint), 0, 1)
_returned_record = record(lambda *values: values, identity, seqs, boolean)


def _returned(value: Any) -> tuple[bytes, tuple[int, ...], bool]:
    if type(value) is tuple and len(value) == 2:
        value = (*value, False)  # from a peer that does not report whether an earlier attempt was sent
    checked: tuple[bytes, tuple[int, ...], bool] = _returned_record(value)
    return checked


returned = _each(_returned, 0, 1)
attempts = array(record(lambda seq, count: (seq, count), uint, uint))
lease_groups = _each(_lease_group, 0, 8)

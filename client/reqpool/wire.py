"""The wire: verbs, fields, limits, encode and decode. No I/O, no clock.

``docs/protocol.md`` is the specification; a test holds the tables there and the schemas here together.
A message is a *head* (a msgpack array whose first element is the verb) and, for results only, one
*blob* frame per group: the broker passes blobs on without looking inside.

    Frames:
        0   bytes   head: msgpack [verb, field, field, ...], docs/protocol.md#verbs
        1…  bytes   blobs (RESULTS only), docs/protocol.md#blob

Everything a peer sends goes through :func:`decode`, which checks every element's type and changes
nothing else; it raises :class:`~reqpool.errors.ProtocolError` and never another exception.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

import msgpack

from .checks import (
    ID_BYTES,
    Check,
    array,
    blob,
    boolean,
    bounded,
    fields,
    identity,
    optional_blob,
    optional_uint,
    record,
    text,
    uint,
)
from .errors import Code, ProtocolError

VERSION = 1
"""The protocol version this code speaks."""
LOWEST_VERSION = 1
"""The oldest version it still serves."""

SESSION_ID_BYTES = ID_BYTES
WORKER_ID_BYTES = ID_BYTES

HEARTBEAT_MS = 500
"""Default span between two heartbeats, both ways."""
LIVENESS_MS = 2_500
"""Default silence after which a peer counts as lost."""
SESSION_EXPIRY_MS = 60_000
"""Silence after which a broker forgets a client's session."""
CONNECT_GRACE_MS = 1_500
"""How long a stub that never reached a broker keeps requests before it says so."""
CLUSTER_GRACE_MS = 200
"""How long past a request's deadline the stub waits for the cluster's own word."""

MAX_BATCH_REQUESTS = 512
"""Most requests or results in one message."""
MAX_REFUSED_REQUESTS = 8 * MAX_BATCH_REQUESTS
"""Requests in one SUBMIT that are refused one by one; with more it counts as unreadable."""
MAX_BATCH_BYTES = 1 << 20
"""Size at which a batch is sent; one single larger payload travels alone."""
MAX_PAYLOAD_BYTES = 16 << 20
"""Largest payload of one request."""
MAX_ANSWER_BYTES = 48 << 20
"""Largest answer of a request that can be asked for."""
MAX_MESSAGE_BYTES = 64 << 20
"""ZMQ_MAXMSGSIZE of every socket: libzmq drops the connection that sends more."""
MAX_SUBMIT_BYTES = 32 << 20
"""Most payload bytes in one SUBMIT."""
MAX_SLOTS = 1_000_000
"""Most connections, requests in flight or requests on a connection that a kind may ask for."""
MAX_SPAN_MS = 24 * 3600 * 1000
"""Longest timeout that can be asked for."""
MAX_ORIGIN_CHARS = 1024
MAX_SETTINGS_BYTES = 1 << 20
"""Largest settings of a connection. A file of all public authorities has 200 to 800 KiB."""
UNTOLD_SETTINGS_BYTES = 64 << 10
"""What a worker takes that does not say how many settings it keeps: one from before KEEP."""
KEPT_FROM_BYTES = 1 << 10
"""Settings from this size on are kept by the receiver, see :mod:`.keeping`."""
SESSION_KEEPS = 8
"""How many settings the broker keeps for one session."""
WORKER_KEEPS = 64
"""How many settings a worker keeps for the broker."""
MAX_ORIGINS = 8
"""Most upstreams that one request may try in turn."""
MAX_KIND_CHARS = 64
MAX_TRACE_BYTES = 4 << 10
MAX_NUMBER = 2**64 - 1
"""Largest integer that msgpack carries: of seqs, pins and flags."""
MAX_NAME_CHARS = 200
"""Of the name that a client or a worker has for people; a longer one is cut."""
MAX_ERROR_CHARS = 2_000
"""Of an error's text; a longer one is cut."""
MAX_ERROR_BYTES = 16 << 10
"""Of an error's details: they are repeated for each of up to 512 requests in one message."""
MAX_NAMED_WORKERS = 10_000
"""Most workers that a client may name in HELLO. Ours names the last 1,000 it heard of."""
MAX_SAMPLE_ORIGINS = 200
"""Origins in a worker's sample: those with the most to do."""
LOWEST_PRIORITY = 2
"""Priorities are 0 (first), 1 (default) and 2 (last)."""


class Verb(IntEnum):
    """First element of every head (uint8)."""

    HELLO = 1
    WELCOME = 2
    REJECT = 3
    OPEN = 4
    HEARTBEAT = 5
    GOODBYE = 6
    SUBMIT = 16
    CANCEL = 17
    RESEND = 18
    RESULTS = 19
    UNPIN = 20
    WORKERS = 21
    KEEP = 22
    LEASE = 32
    RETURN = 33
    RETRY = 34
    GRANT = 35
    GRANTED = 36
    DRAIN = 37
    DEAD = 38
    STATUS = 48


_VERBS = {int(verb): verb for verb in Verb}


class Flag(IntFlag):
    """Bits of a request group's ``flags``."""

    IDEMPOTENT = 1
    """May run more than once."""
    RESUBMITTED = 2
    """The stub sent it before, on an earlier connection."""
    OPENS = 4
    """The first request of its pin: take a connection for it."""
    SENT = 8
    """Of a lease group: an earlier attempt may have reached the upstream."""
    OTHERS = 16
    """Of a lease group: other origins are left to be tried after this one."""


class Reject(IntEnum):
    """``code`` of a REJECT."""

    UNKNOWN = 1
    """No such session or worker here: say HELLO."""
    VERSION = 2
    """No protocol version in common."""
    GAP = 3
    """A numbered message is missing: say HELLO and submit again what is open."""
    MALFORMED = 4
    """A message could not be read; its text says why."""
    OVERLOADED = 5
    """No room for another session."""


class Group(NamedTuple):
    """Requests of one SUBMIT that share everything but their payload.

    Attributes:
        kind: registered name of the kind.
        origins: upstreams to try in turn, at least one.
        span_ms: what was left of the timeout when the message was sent.
        flags: :class:`Flag` bits.
        priority: 0 (first) to 2 (last).
        pin: client-chosen number of the held connection, or None.
        trace: trace context, passed through as it is, or None.
        seqs: sequence numbers, u64, ascending or not, each once in a session's life.
        payloads: one for each of ``seqs``.
        settings: what the kind's worker half needs for a connection; empty if nothing.
        kept: number under which the receiver keeps the settings (then ``settings`` is empty), or None.
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


class LeaseGroup(NamedTuple):
    """Requests handed to one worker that share everything but their payload.

    Attributes:
        session: id of the session that submitted them.
        kind: registered name of the kind.
        origin: the one upstream of this attempt.
        span_ms: what this attempt may take.
        flags: :class:`Flag` bits.
        attempt: 1 for the first.
        pin: as in :class:`Group`.
        trace: as in :class:`Group`.
        seqs: sequence numbers.
        payloads: one for each of ``seqs``.
        settings: as in :class:`Group`.
        wait_ms: how long it may wait for a connection; None: until its end.
        kept: as in :class:`Group`.
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


class Failed(NamedTuple):
    """Attempts of a RETRY that ended without an outcome, or with one that another origin may better, all for
    one reason.

    Attributes:
        session: id of the session.
        seqs: sequence numbers.
        code: what the outcome is if nothing else can be tried (:class:`~reqpool.errors.Code`).
        sent: could the upstream have acted on them?
        details: msgpack map of :func:`encode_error`; with code 0 the answer.
    """

    session: bytes
    seqs: tuple[int, ...]
    code: int
    sent: bool
    details: bytes


class Unread(NamedTuple):
    """A group that is malformed or over a bound, in a message whose other groups are not.

    Attributes:
        session: id of the session; empty in a SUBMIT, whose sender is the session, or if it cannot be read.
        seqs: its requests; empty if they cannot be read.
        resubmitted: may they be known already?
        text: what is wrong.
    """

    session: bytes
    seqs: tuple[int, ...]
    resubmitted: bool
    text: str


class KindInfo(NamedTuple):
    """What a worker says in HELLO of a kind it serves.

    Attributes:
        name: the kind.
        connections: True if each request needs a granted connection slot.
        limit: default cap per origin for the whole pool: connections, or requests in flight.
        depth: requests that may be outstanding on one connection; 1 for connectionless kinds.
    """

    name: str
    connections: bool
    limit: int
    depth: int


# --- checks -------------------------------------------------------------------------------------

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


def _payloads(value: Any) -> tuple[bytes, ...]:
    if type(value) is not tuple or set(map(type, value)) != _BYTES:
        raise ProtocolError("expected payloads: a non-empty array of bytes")
    if max(map(len, value)) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a payload is over {MAX_PAYLOAD_BYTES >> 20} MiB")
    return value


def _origins(value: Any) -> tuple[str, ...]:
    if type(value) is not tuple or not 0 < len(value) <= MAX_ORIGINS:
        raise ProtocolError(f"expected 1 to {MAX_ORIGINS} origins")
    return tuple(origin(item) for item in value)


def _kind_name(value: Any) -> str:
    if not 0 < len(text(value)) <= MAX_KIND_CHARS:
        raise ProtocolError(f"expected a kind's name: a string of 1 to {MAX_KIND_CHARS} characters")
    return str(value)


def _span(value: Any) -> int:
    if uint(value) > MAX_SPAN_MS:
        raise ProtocolError("span is over 24 h")
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


def _settings(value: Any) -> bytes:
    if len(blob(value)) > MAX_SETTINGS_BYTES:
        raise ProtocolError(f"settings of {len(value)} bytes, at most {MAX_SETTINGS_BYTES} are allowed")
    return bytes(value)


_explained_group = record(
    _matched(Group),
    text, _origins, _span, uint, _priority, optional_uint, optional_blob, seqs, _payloads, _settings,
    optional_uint,
)  # fmt: skip
_explained_lease_group = record(
    _matched(LeaseGroup),
    identity, text, origin, _span, uint, uint, optional_uint, optional_blob, seqs, _payloads, _settings,
    optional_uint, optional_uint,
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


def _group(value: Any) -> Group:
    """What nearly every group looks like is accepted at once; the others are looked at field by field."""
    if type(value) is tuple and 9 <= len(value) < 11:
        value = (*value, *(b"", None)[len(value) - 9 :])  # of a peer that knows no settings, no KEEP
    if type(value) is tuple and len(value) >= 11:
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
        ):
            return Group._make(value[:11])
    group: Group = _explained_group(value)
    return group


def _lease_group(value: Any) -> LeaseGroup:
    """As :func:`_group`."""
    if type(value) is tuple and 10 <= len(value) < 13:
        value = (*value, *(b"", None, None)[len(value) - 10 :])  # of a peer that knows no settings and so on
    if type(value) is tuple and len(value) >= 13:
        session, kind, name, span_ms, flags, attempt, pin, trace, numbers, payloads, settings = value[:11]
        if (
            pin is None
            and trace is None
            and type(session) is bytes
            and len(session) == SESSION_ID_BYTES
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
        ):
            return LeaseGroup._make(value[:13])
    group: LeaseGroup = _explained_lease_group(value)
    return group


def _groups(value: Any) -> list[Group | Unread]:
    """Those of a SUBMIT. One that cannot be used ends alone, as far as its requests can be named."""
    if type(value) is not tuple:
        raise ProtocolError(f"expected an array, got {type(value).__name__}")
    groups: list[Group | Unread] = []
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
                # Nobody could be told, or too many. Nothing is taken; the client finds out which it was.
                raise
            flags = item[3]
            groups.append(unread._replace(resubmitted=type(flags) is not int or bool(flags & _RESUBMITTED)))
        else:
            groups.append(group)
    return groups


def _unread(value: Any, session_at: int | None, seqs_at: int, text: str) -> Unread:
    """Read of a group that is malformed what it takes to end its requests: session and seqs, by index."""
    try:
        session = b"" if session_at is None else identity(value[session_at])
        return Unread(session, seqs(value[seqs_at]), True, text)
    except (ProtocolError, LookupError, TypeError):
        return Unread(b"", (), True, text)


_returned_record = record(lambda *values: values, identity, seqs, boolean)


def _returned(value: Any) -> tuple[bytes, tuple[int, ...], bool]:
    if type(value) is tuple and len(value) == 2:
        value = (*value, False)  # from a peer that does not say whether an earlier attempt was sent
    returned: tuple[bytes, tuple[int, ...], bool] = _returned_record(value)
    return returned


def _each(check: Check, session_at: int, seqs_at: int) -> Check:
    """An array of groups, with an :class:`Unread` in the place of each that is malformed."""

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
    return encode_error(f"an error of {len(value)} bytes, which is more than is passed on")


_failed = _each(record(Failed, identity, seqs, uint, boolean, _details), 0, 1)
_session_seqs = _each(record(lambda session, numbers: (session, numbers), identity, seqs), 0, 1)
_session_results = _each(record(lambda *values: values, identity, seqs, uint), 0, 1)
_returned_groups = _each(_returned, 0, 1)
_lease_groups = _each(_lease_group, 0, 8)
_attempts = record(lambda seq, attempts: (seq, attempts), uint, uint)
_count = bounded(MAX_SLOTS)
_kinds = array(record(KindInfo, _kind_name, boolean, _count, _count))
_held = array(record(lambda session, numbers: (session, set(numbers)), identity, seqs))
_slots = array(record(lambda name, count: (name, count), origin, _count))
_pins = array(record(lambda *values: values, identity, uint, text, origin))


def kinds(value: Any) -> dict[str, KindInfo]:
    """Check ``kinds`` of a worker's HELLO."""
    return {kind.name: kind for kind in _kinds(value)}


def held(value: Any) -> dict[bytes, set[int]]:
    """Check ``held`` of a worker's HELLO: session id to seqs."""
    by_session: dict[bytes, set[int]] = {}
    for session, numbers in _held(value):
        by_session.setdefault(session, set()).update(numbers)
    return by_session


def slots(value: Any) -> dict[str, int]:
    """Check ``slots`` of a worker's HELLO: origin to open connections."""
    return dict(_slots(value))


def pins(value: Any) -> list[tuple[bytes, int, str, str]]:
    """Check ``pins`` of a worker's HELLO: session id, pin, kind and origin of each held connection."""
    checked: list[tuple[bytes, int, str, str]] = _pins(value)
    return checked


# --- schemas: one literal table per direction ----------------------------------------------------

Schema = Mapping[Verb, tuple[tuple[str, Check] | tuple[str, Check, Any], ...]]
"""Verb to its fields: name, check and, for a trailing field that may be missing, what its absence means."""

CLIENT_TO_BROKER: Schema = {
    Verb.HELLO: (("lowest", uint), ("highest", uint), ("about", fields)),
    Verb.HEARTBEAT: (("number", uint), ("seen", uint), ("acked", uint)),
    Verb.SUBMIT: (("number", uint), ("acked", uint), ("groups", _groups)),
    Verb.CANCEL: (("seqs", seqs),),
    Verb.RESEND: (("after", uint),),
    Verb.UNPIN: (("pin", uint),),
    Verb.KEEP: (("kept", uint), ("settings", _settings)),
    Verb.STATUS: (("query", fields),),
    Verb.GOODBYE: (),
}
"""Intake socket, DEALER -> ROUTER."""

BROKER_TO_CLIENT: Schema = {
    Verb.WELCOME: (("version", uint), ("about", fields)),
    Verb.REJECT: (("code", uint), ("text", text), ("about", fields)),
    Verb.STATUS: (("report", fields),),
}
"""Intake socket, ROUTER -> DEALER: what is said before the session is open."""

PUBLISHED: Schema = {
    Verb.OPEN: (("epoch", uint),),
    Verb.HEARTBEAT: (
        ("epoch", uint), ("number", uint), ("seen", uint), ("acked", uint), ("latest", uint),
    ),
    Verb.RESULTS: (("epoch", uint), ("number", uint), ("acked", uint), ("attempts", array(_attempts), ())),
    Verb.WORKERS: (("epoch", uint), ("workers", array(identity))),
    Verb.GOODBYE: (("epoch", uint), ("text", text)),
}  # fmt: skip
"""Results socket, XPUB -> SUB, below the session id as topic."""

WORKER_TO_BROKER: Schema = {
    Verb.HELLO: (("lowest", uint), ("highest", uint), ("about", fields)),
    Verb.HEARTBEAT: (("epoch", uint), ("seen", uint), ("number", uint), ("sample", fields)),
    Verb.RESULTS: (("epoch", uint), ("seen", uint), ("number", uint), ("groups", _session_results)),
    Verb.RETURN: (("epoch", uint), ("seen", uint), ("groups", _returned_groups)),
    Verb.RETRY: (("epoch", uint), ("seen", uint), ("groups", _failed)),
    Verb.GRANTED: (("epoch", uint), ("seen", uint), ("origin", origin), ("grant", uint), ("held", uint)),
    Verb.UNPIN: (("epoch", uint), ("seen", uint), ("session", identity), ("pin", uint)),
    Verb.DRAIN: (("epoch", uint), ("seen", uint)),
    Verb.GOODBYE: (("epoch", uint), ("seen", uint)),
    Verb.DEAD: (("worker", identity),),
}
"""Workers socket, DEALER -> ROUTER. DEAD comes from the supervisor."""

BROKER_TO_WORKER: Schema = {
    Verb.WELCOME: (("version", uint), ("about", fields)),
    Verb.REJECT: (("code", uint), ("text", text), ("about", fields)),
    Verb.HEARTBEAT: (
        ("epoch", uint), ("seen", uint), ("number", uint), ("received", uint),
        ("undelivered", array(uint)),
    ),
    Verb.LEASE: (("epoch", uint), ("seen", uint), ("groups", _lease_groups)),
    Verb.CANCEL: (("epoch", uint), ("seen", uint), ("groups", _session_seqs)),
    Verb.GRANT: (
        ("epoch", uint), ("seen", uint), ("origin", origin), ("grant", uint), ("slots", uint),
        ("policy", fields),
    ),
    Verb.UNPIN: (("epoch", uint), ("seen", uint), ("session", identity), ("pin", uint)),
    Verb.KEEP: (("epoch", uint), ("seen", uint), ("kept", uint), ("settings", _settings)),
    Verb.DRAIN: (("epoch", uint), ("seen", uint)),
}  # fmt: skip
"""Workers socket, ROUTER -> DEALER."""


# --- encode and decode ---------------------------------------------------------------------------


# One for all: making a Packer costs more than packing a head. Its pack() holds the GIL from end to end.
_pack: Callable[[Any], bytes] = msgpack.Packer().pack


def encode(verb: Verb, *values: Any) -> bytes:
    """Encode one head: ``[verb, *values]``. NamedTuples become arrays."""
    return _pack((verb._value_, *values))


def unpack(frame: Any) -> Any:
    """Decode one msgpack object of untrusted bytes, or of a :class:`zmq.Frame`; arrays become tuples.

    Raises:
        ProtocolError: if the bytes are not exactly one msgpack object.
    """
    try:
        if type(frame) is not bytes:
            frame = frame.buffer  # read where it lies
        return msgpack.unpackb(frame, use_list=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error or type(error).__name__}") from error


def decode(frame: bytes, schema: Schema) -> tuple[Verb, list[Any]]:
    """Decode one head by the table of its direction.

    Args:
        frame: the head as it came.
        schema: e.g. :data:`CLIENT_TO_BROKER`.

    Returns:
        The verb and its fields in the table's order, checked. Further fields are ignored, optional ones that
        are missing filled in.

    Raises:
        ProtocolError: if it is not a head of this direction; nothing has changed then.
    """
    head = unpack(frame)
    if type(head) is not tuple or not head or type(head[0]) is not int:
        raise ProtocolError("a head is an array that begins with a verb")
    verb = _VERBS.get(head[0])
    layout = None if verb is None else schema.get(verb)
    if verb is None or layout is None:
        raise ProtocolError(f"verb {head[0]} is not sent in this direction")
    if len(head) <= len(layout):
        missing = layout[len(head) - 1 :]
        head += tuple(field[2] for field in missing if len(field) == 3)
        if len(head) <= len(layout):
            needed = sum(len(field) == 2 for field in layout)
            raise ProtocolError(f"{verb.name} has {len(layout) - len(missing)} fields, needs {needed}")
    values = []
    field = layout[0] if layout else ("", fields)
    try:
        for field, value in zip(layout, head[1:], strict=False):
            values.append(field[1](value))
    except ProtocolError as error:
        raise ProtocolError(f"{verb.name}.{field[0]}: {error.text}") from error
    return verb, values


def shown_id(session_id: bytes) -> str:
    """Return what stands for a session wherever people or other programs see it.

    The session id itself is a secret: whoever has it can take the session over. This is derived from it one
    way (BLAKE2b, RFC 7693, 8 bytes, personalised), so that errors, logs and ``status`` name a session alike.
    """
    return hashlib.blake2b(session_id, digest_size=8, person=b"reqpool-session").hexdigest()


def encode_blob(entries: Iterable[Any]) -> bytes:
    """Encode results for one session: a flat array ``seq, code, data, seq, code, data, …``."""
    return _pack(entries if type(entries) in (list, tuple) else list(entries))


def decode_blob(frame: bytes) -> tuple[Any, ...]:
    """Decode a results blob into its flat tuple ``(seq, code, data, …)``.

    Raises:
        ProtocolError: if it is not a whole number of (uint, uint, bytes).
    """
    flat = unpack(frame)
    if (
        type(flat) is not tuple
        or len(flat) % 3
        or not set(map(type, flat[0::3])) <= _INT
        or not set(map(type, flat[1::3])) <= _INT
        or not set(map(type, flat[2::3])) <= _BYTES
        or min(flat[0::3], default=0) < 0
        or min(flat[1::3], default=0) < 0
    ):
        raise ProtocolError("a blob is an array of seq, code, data triples")
    return flat


def readable_entries(frame: bytes) -> tuple[Any, ...]:
    """Read what can be read of a blob that :func:`decode_blob` refuses.

    Returns:
        As :func:`decode_blob`. An entry that has a seq, and no legal code or data, is a protocol error; what
        has no seq is left out. Empty if nothing can be read.
    """
    try:
        entries = unpack(frame)
    except ProtocolError:
        return ()
    flat: list[Any] = []
    for at in range(0, len(entries) if type(entries) is tuple else 0, 3):
        seq, code, data = (*entries[at : at + 3], None, None)[:3]
        if type(seq) is int and seq >= 0:
            if type(code) is not int or code < 0 or type(data) is not bytes:
                code, data = int(Code.PROTOCOL), encode_error("its result cannot be read")
            flat += (seq, code, data)
    return tuple(flat)


def sendable(text: str, most: int) -> str:
    """Return a text for people as it can travel: of ``most`` characters, without surrogates."""
    text = text[: most + 1].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def encode_error(
    text: str,
    *,
    origin: str | None = None,
    phase: str | None = None,
    attempts: int = 0,
    sent: bool | None = None,
    retry_after_ms: int | None = None,
) -> bytes:
    """Encode the data of a result whose code is not OK: a msgpack map, absent keys left out.

    A text that is too long is cut, and what is not Unicode in it escaped: an error always gets through.
    """
    about = {
        "text": sendable(text, MAX_ERROR_CHARS),
        "origin": None if origin is None else sendable(origin, MAX_ORIGIN_CHARS),
        "phase": phase,
        "attempts": attempts, "sent": sent, "retry_after_ms": retry_after_ms,
    }  # fmt: skip
    return _pack({key: value for key, value in about.items() if value is not None})


def as_sent(details: bytes) -> bytes:
    """Return details of :func:`encode_error` that say that the upstream could have acted."""
    try:
        about = decode_error(details)
    except ProtocolError:
        return details
    return _pack({**about, "sent": True})


def decode_error(data: bytes) -> dict[str, Any]:
    """Decode what :func:`encode_error` made.

    Raises:
        ProtocolError: if it is not a map with string keys.
    """
    return fields(unpack(data))

"""The wire: verbs, fields, encode and decode. No I/O, no clock.

It includes the numbers of the wire (:mod:`.limits`), and the groups of requests and results (:mod:`.groups`).
``docs/protocol.md`` is the specification; a test compares the tables there with the schemas here.

A message is a *head* (a msgpack array whose first element is the verb), followed by one *blob* frame per
group for results, and by one frame per large payload for requests. The broker passes these on unread.

    Frames:
        0   bytes   head: msgpack [verb, field, field, ...], docs/protocol.md#verbs
        1…  bytes   blobs (RESULTS), docs/protocol.md#blob, or payloads (SUBMIT, LEASE), :mod:`.large_frames`

Everything that a peer sends goes through :func:`decode`, which checks the type of every element and has no
other effect; it raises :class:`~reqpool_contract.errors.ProtocolError` and no other exception.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgpack

from .checks import ID_BYTES, Check, array, blob, boolean, fields, identity, seq_ranges, text, uint, watermark
from .errors import Code, ProtocolError
from .groups import *  # noqa: F403  (part of the contract, and so of this module)
from .groups import (
    LeaseGroup,
    SubmitGroup,
    attempts,
    connection_settings,
    failures,
    lease_groups,
    origin,
    returned,
    seqs,
    session_results,
    session_seqs,
    submit_groups,
)
from .large_frames import *  # noqa: F403
from .large_frames import put_back
from .limits import *  # noqa: F403
from .limits import MAX_ERROR_CHARS, MAX_ORIGIN_CHARS
from .worker_reports import *  # noqa: F403

VERSION = 1
"""The protocol version of this code."""
LOWEST_VERSION = 1
"""The oldest version that it supports."""

SESSION_ID_BYTES = ID_BYTES
WORKER_ID_BYTES = ID_BYTES


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
    KEEP = 22
    LEASE = 32
    RETURN = 33
    RETRY = 34
    GRANT = 35
    GRANTED = 36
    DRAIN = 37
    DEAD = 38
    STARTED = 39
    PIECE = 40
    STOPPING = 41
    STATUS = 48


_VERBS = {int(verb): verb for verb in Verb}


class Reject(IntEnum):
    """``code`` of a REJECT."""

    UNKNOWN = 1
    """The session or worker is unknown: send HELLO."""
    VERSION = 2
    """There is no common protocol version."""
    GAP = 3
    """A numbered message is missing: send HELLO and resubmit the open requests."""
    MALFORMED = 4
    """A message could not be read; the text says why."""
    OVERLOADED = 5
    """There is no room for another session."""


_INT = {int}
_BYTES = {bytes}


# --- schemas: one literal table per direction ----------------------------------------------------

Schema = Mapping[Verb, tuple[tuple[str, Check] | tuple[str, Check, Any], ...]]
"""Maps verbs to fields: name, check and, for a trailing field that may be missing, its default."""

CLIENT_TO_BROKER: Schema = {
    Verb.HELLO: (("lowest", uint), ("highest", uint), ("about", fields)),
    Verb.HEARTBEAT: (("number", uint), ("seen", uint), ("acked", uint)),
    Verb.SUBMIT: (("number", uint), ("acked", uint), ("groups", submit_groups)),
    Verb.CANCEL: (("seqs", seqs),),
    Verb.RESEND: (("after", uint),),
    Verb.UNPIN: (("pin", uint),),
    Verb.KEEP: (("kept", uint), ("settings", connection_settings)),
    Verb.STATUS: (("query", fields),),
    Verb.GOODBYE: (),
}
"""Intake socket, DEALER -> ROUTER."""

BROKER_TO_CLIENT: Schema = {
    Verb.WELCOME: (("version", uint), ("about", fields)),
    Verb.REJECT: (("code", uint), ("text", text), ("about", fields)),
    Verb.STATUS: (("report", fields),),
}
"""Intake socket, ROUTER -> DEALER, until the session is open."""

PUBLISHED: Schema = {
    Verb.OPEN: (("epoch", uint),),
    Verb.HEARTBEAT: (
        ("epoch", uint), ("number", uint), ("seen", uint), ("acked", uint), ("latest", uint),
        ("watermark", watermark, b""),
    ),
    Verb.RESULTS: (("epoch", uint), ("number", uint), ("acked", uint), ("attempts", attempts, ())),
    Verb.GOODBYE: (
        ("epoch", uint), ("text", text), ("acked", uint, 0), ("latest", uint, 0), ("unrun", boolean, False),
        ("doubtful", seq_ranges, None),
    ),
}  # fmt: skip
"""Results socket, XPUB -> SUB, after a frame with the session id as topic."""

WORKER_TO_BROKER: Schema = {
    Verb.HELLO: (("lowest", uint), ("highest", uint), ("about", fields)),
    Verb.HEARTBEAT: (("epoch", uint), ("seen", uint), ("number", uint), ("sample", fields)),
    Verb.RESULTS: (("epoch", uint), ("seen", uint), ("number", uint), ("groups", session_results)),
    Verb.RETURN: (("epoch", uint), ("seen", uint), ("groups", returned)),
    Verb.RETRY: (("epoch", uint), ("seen", uint), ("groups", failures)),
    Verb.GRANTED: (("epoch", uint), ("seen", uint), ("origin", origin), ("grant", uint), ("held", uint)),
    Verb.UNPIN: (("epoch", uint), ("seen", uint), ("session", identity), ("pin", uint)),
    Verb.DRAIN: (("epoch", uint), ("seen", uint)),
    Verb.GOODBYE: (("epoch", uint), ("seen", uint)),
    Verb.STARTED: (("worker", identity),),
    Verb.DEAD: (("worker", identity), ("deaths", uint, 0), ("orderly", boolean, False)),
    Verb.STOPPING: (),
}
"""Workers socket, DEALER -> ROUTER. STARTED, DEAD and STOPPING come from the supervisor."""

BROKER_TO_WORKER: Schema = {
    Verb.WELCOME: (("version", uint), ("about", fields)),
    Verb.REJECT: (("code", uint), ("text", text), ("about", fields)),
    Verb.HEARTBEAT: (
        ("epoch", uint), ("seen", uint), ("number", uint), ("received", uint),
        ("undelivered", array(uint)), ("excused", boolean, False),
    ),
    Verb.LEASE: (("epoch", uint), ("seen", uint), ("groups", lease_groups), ("ahead", uint, 0)),
    Verb.PIECE: (("epoch", uint), ("seen", uint), ("offset", uint), ("piece", blob)),
    Verb.CANCEL: (("epoch", uint), ("seen", uint), ("groups", session_seqs)),
    Verb.GRANT: (
        ("epoch", uint), ("seen", uint), ("origin", origin), ("grant", uint), ("slots", uint),
        ("policy", fields),
    ),
    Verb.UNPIN: (("epoch", uint), ("seen", uint), ("session", identity), ("pin", uint)),
    Verb.KEEP: (("epoch", uint), ("seen", uint), ("kept", uint), ("settings", connection_settings)),
    Verb.DRAIN: (("epoch", uint), ("seen", uint)),
}  # fmt: skip
"""Workers socket, ROUTER -> DEALER."""


# --- encode and decode ---------------------------------------------------------------------------


# Shared, since making a Packer costs more than packing a head. pack() holds the GIL until it returns.
_pack: Callable[[Any], bytes] = msgpack.Packer().pack


def encode(verb: Verb, *values: Any) -> bytes:
    """Encode one head: ``[verb, *values]``. NamedTuples become arrays."""
    return _pack((verb._value_, *values))


def unpack(frame: Any) -> Any:
    """Decode one msgpack object from untrusted bytes or a :class:`zmq.Frame`; arrays become tuples.

    Raises:
        ProtocolError: the bytes are not exactly one msgpack object.
    """
    try:
        if type(frame) is not bytes:
            frame = frame.buffer  # read in place
        return msgpack.unpackb(frame, use_list=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error or type(error).__name__}") from error


PAYLOADS_AT = {
    Verb.SUBMIT: SubmitGroup._fields.index("payloads"),
    Verb.LEASE: LeaseGroup._fields.index("payloads"),
}
"""Index of the payloads in the groups of messages that may have frames for large ones."""
_GROUPS_AT = 3
"""Index of the groups in the heads of these messages."""


def decode(frame: bytes, schema: Schema, apart: Sequence[Any] = ()) -> tuple[Verb, list[Any]]:
    """Decode one head by the table of its direction.

    Args:
        frame: the head as received.
        schema: e.g. :data:`CLIENT_TO_BROKER`.
        apart: the frames after the head; empty if they are not payloads.

    Returns:
        The verb and its fields in the table's order, checked. Further fields are ignored, and missing
        optional ones filled in.

    Raises:
        ProtocolError: it is not a head of this direction.
    """
    head = unpack(frame)
    if type(head) is not tuple or not head or type(head[0]) is not int:
        raise ProtocolError("a head must be an array that begins with a verb")
    verb = _VERBS.get(head[0])
    layout = None if verb is None else schema.get(verb)
    if verb is None or layout is None:
        raise ProtocolError(f"verb {head[0]} is not sent in this direction")
    given = len(head) - 1
    if given < len(layout) and len(layout[given]) == 2:
        needed = sum(len(field) == 2 for field in layout)
        raise ProtocolError(f"{verb.name} has {given} fields, needs {needed}")
    if apart:
        if verb not in PAYLOADS_AT or given < _GROUPS_AT:
            raise ProtocolError(f"{verb.name} came with {len(apart)} further frames")
        groups = put_back(head[_GROUPS_AT], PAYLOADS_AT[verb], apart)
        head = (*head[:_GROUPS_AT], groups, *head[_GROUPS_AT + 1 :])
    values = []
    field = layout[0] if layout else ("", fields)
    try:
        for field, value in zip(layout, head[1:], strict=False):
            values.append(field[1](value))
    except ProtocolError as error:
        raise ProtocolError(f"{verb.name}.{field[0]}: {error.text}") from error
    if given < len(layout):
        values += [default for _, _, default in layout[given:]]  # type: ignore[misc]  # all may be missing
    return verb, values


def shown_id(session_id: bytes) -> str:
    """Return the label of a session, for display and for other programs.

    The session id itself is a secret, with which the session could be taken over. The label is a hash of it
    (BLAKE2b, RFC 7693, 8 bytes, personalised), so that errors, logs and ``status`` use the same name.
    """
    return hashlib.blake2b(session_id, digest_size=8, person=b"reqpool-session").hexdigest()


def encode_blob(entries: Iterable[Any]) -> bytes:
    """Encode results for one session: a flat array ``seq, code, data, seq, code, data, …``."""
    return _pack(entries if type(entries) in (list, tuple) else list(entries))


def decode_blob(frame: bytes) -> tuple[Any, ...]:
    """Decode a results blob into its flat tuple ``(seq, code, data, …)``.

    Raises:
        ProtocolError: it is not a whole number of (uint, uint, bytes).
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
        raise ProtocolError("a blob must be an array of seq, code, data triples")
    return flat


def readable_entries(frame: bytes) -> tuple[Any, ...]:
    """Read what is readable in a blob that :func:`decode_blob` refuses.

    Returns:
        As :func:`decode_blob`. An entry that has a seq but no legal code and data becomes a protocol error;
        entries without a seq are omitted. Empty if nothing is readable.
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
    """Return a text for display in a form that can be sent: cut to ``most`` characters, no surrogates."""
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
    """Encode the data of a result whose code is not OK: a msgpack map without absent keys.

    A long text is cut, and what is not Unicode in it is escaped, so that every error can be sent.
    """
    about = {
        "text": sendable(text, MAX_ERROR_CHARS),
        "origin": None if origin is None else sendable(origin, MAX_ORIGIN_CHARS),
        "phase": phase,
        "attempts": attempts, "sent": sent, "retry_after_ms": retry_after_ms,
    }  # fmt: skip
    return _pack({key: value for key, value in about.items() if value is not None})


def as_sent(details: bytes) -> bytes:
    """Return details of :func:`encode_error`, changed to say that the upstream could have acted."""
    try:
        about = decode_error(details)
    except ProtocolError:
        return details
    return _pack({**about, "sent": True})


def decode_error(data: bytes) -> dict[str, Any]:
    """Decode the details that :func:`encode_error` made.

    Raises:
        ProtocolError: they are not a map with string keys.
    """
    return fields(unpack(data))

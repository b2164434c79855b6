"""The wire: verbs, fields, encode and decode. No I/O, no clock.

With it come its numbers (:mod:`.limits`), and the groups of requests and results (:mod:`.groups`).

``docs/protocol.md`` is the specification; a test holds the tables there and the schemas here together.
A message is a *head* (a msgpack array whose first element is the verb) and, for results, one *blob* frame
per group, for requests one per large payload: the broker passes them on without looking inside.

    Frames:
        0   bytes   head: msgpack [verb, field, field, ...], docs/protocol.md#verbs
        1…  bytes   blobs (RESULTS), docs/protocol.md#blob, or large payloads (SUBMIT, LEASE), :mod:`.apart`

Everything a peer sends goes through :func:`decode`, which checks every element's type and changes
nothing else; it raises :class:`~reqpool_contract.errors.ProtocolError` and never another exception.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgpack

from .checks import ID_BYTES, Check, array, blob, boolean, fields, identity, seq_ranges, text, uint, watermark
from .errors import Code, ProtocolError
from .groups import *  # noqa: F403  (as the numbers: part of the contract, so part of this module)
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
"""The protocol version this code speaks."""
LOWEST_VERSION = 1
"""The oldest version it still serves."""

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
    """No such session or worker here: say HELLO."""
    VERSION = 2
    """No protocol version in common."""
    GAP = 3
    """A numbered message is missing: say HELLO and submit again what is open."""
    MALFORMED = 4
    """A message could not be read; its text says why."""
    OVERLOADED = 5
    """No room for another session."""


_INT = {int}
_BYTES = {bytes}


# --- schemas: one literal table per direction ----------------------------------------------------

Schema = Mapping[Verb, tuple[tuple[str, Check] | tuple[str, Check, Any], ...]]
"""Verb to its fields: name, check and, for a trailing field that may be missing, what its absence means."""

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
"""Intake socket, ROUTER -> DEALER: what is said before the session is open."""

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
"""Results socket, XPUB -> SUB, below the session id as topic."""

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


PAYLOADS_AT = {
    Verb.SUBMIT: SubmitGroup._fields.index("payloads"),
    Verb.LEASE: LeaseGroup._fields.index("payloads"),
}
"""Where payloads stand in the groups of those messages that may have frames with large ones."""
_GROUPS_AT = 3
"""Where the groups stand in their heads."""


def decode(frame: bytes, schema: Schema, apart: Sequence[Any] = ()) -> tuple[Verb, list[Any]]:
    """Decode one head by the table of its direction.

    Args:
        frame: the head as it came.
        schema: e.g. :data:`CLIENT_TO_BROKER`.
        apart: the frames behind it; none if they are not payloads.

    Returns:
        The verb and its fields in the table's order, checked. Further fields are ignored, optional ones that
        are missing filled in.

    Raises:
        ProtocolError: if it is not a head of this direction; nothing has changed then.
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
    """Return the label of a session, for wherever people or other programs see it.

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
        raise ProtocolError("a blob must be an array of seq, code, data triples")
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

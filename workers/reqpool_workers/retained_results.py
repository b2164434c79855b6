"""Results on their way to broker and clients: numbered, and retained until they have arrived. Sans-IO."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgpack

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import MAX_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS

from .lease import SessionResults

DROPPED = wire.encode_error(
    "the answer was dropped: its client did not fetch it in time, and the broker that had it is gone",
    sent=True,
)
"""What remains of an outcome for which there was no room."""


FEW_SESSIONS = 64
SMALL_ANSWER_BYTES = 4096
"""Sessions, and bytes of each answer, up to which results are packed without looking at how they fit."""

_BYTES = {bytes}
_OK, _AGAIN = int(Code.OK), int(Code.AGAIN)
_packer, _new = msgpack.Packer(), tuple.__new__


class Part(NamedTuple):
    """Results of one session in one message.

    Attributes:
        failed: how many of them are errors.
        blob: as it is sent; empty if there was no room for it, see :meth:`verdicts`.
        until_s: when the client cannot ask for any of them again; None if their requests may run more than
            once.
    """

    session: bytes
    seqs: tuple[int, ...]
    failed: int
    blob: bytes
    until_s: float | None

    def verdicts(self) -> Part:
        """Return what is sent once its blob is gone: the requests have run, how they ended is not known."""
        flat: list[Any] = [value for seq in self.seqs for value in (seq, Code.OUTCOME_UNKNOWN, DROPPED)]
        return self._replace(failed=len(self.seqs), blob=wire.encode_blob(flat))


class ResultsMessage(NamedTuple):
    """One RESULTS message.

    Attributes:
        size_bytes: of the blobs.
        expires_s: the earliest :attr:`Part.until_s`; infinity if there is none.
    """

    number: int
    parts: list[Part]
    size_bytes: int
    expires_s: float


_SIZE_BYTES = attrgetter("size_bytes")


class RetainedResults:
    """Messages, from the turn that made them until they can no longer be asked for again.

    Results of requests that may run again are retained until the broker has them. From those of the others a
    new broker, or this one after a lost connection, knows that the requests have run: they are retained until
    their client has acknowledged them, or their deadline has passed. When they take too much room, the
    *answers* of those that the broker has are dropped, the longest unacknowledged first; that the requests
    have run is not forgotten. So clients that acknowledge nothing never fill it.

    Args:
        max_bytes: size of the blobs that may be retained.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 0
        self._unreceived: deque[ResultsMessage] = deque()
        self._unreceived_bytes = 0
        self._undelivered: deque[ResultsMessage] = deque()
        self._undelivered_bytes = 0
        # Older than those in _undelivered, and without blobs.
        self._verdicts: deque[ResultsMessage] = deque()

    @property
    def unreceived_bytes(self) -> int:
        """Size of the blobs that the broker has not received."""
        return self._unreceived_bytes

    @property
    def full(self) -> bool:
        """Whether there is no room for more results, since the broker has not received those there are."""
        return self._unreceived_bytes > self._max_bytes

    @property
    def arrived(self) -> bool:
        """Whether the broker has received all that is retained."""
        return not self._unreceived

    @property
    def retained_bytes(self) -> int:
        """Size of all blobs."""
        return self._unreceived_bytes + self._undelivered_bytes

    @property
    def unacknowledged(self) -> int:
        """How many requests that must not be repeated have an outcome that is retained."""
        return sum(len(part.seqs) for part in self._parts() if part.until_s is not None)

    def pack(self, results: Iterable[tuple[bytes, list[Any], float | None]]) -> list[ResultsMessage]:
        """Make numbered messages of (session, flat results, :attr:`Part.until_s`), and retain them."""
        batches: list[ResultsMessage] = []
        parts: list[Part] = []
        size = 0
        for session, flat, until_s in results:
            for chunk, blob in _encoded(flat):
                if parts and size + len(blob) > MAX_BATCH_BYTES:
                    batches.append(self._numbered(parts))
                    parts, size = [], 0
                codes = chunk[1::3]
                failed = len(codes) - codes.count(Code.OK) - codes.count(Code.AGAIN)
                parts.append(Part(session, tuple(chunk[0::3]), failed, blob, until_s))
                size += len(blob)
        if parts:
            batches.append(self._numbered(parts))
        if self.retained_bytes > self._max_bytes:
            self._make_room()
        return batches

    def pack_small(self, sessions: Sequence[SessionResults]) -> ResultsMessage | None:
        """Make one message of sessions' results, and retain it: what :meth:`pack` would make.

        Returns:
            None, and nothing has changed, if it is not a few small answers that fit into one message.
        """
        if len(sessions) > FEW_SESSIONS:
            return None
        parts: list[Part] = []
        size_bytes, expires_s, pack = 0, math.inf, _packer.pack
        for session in sessions:
            for flat, until_s in ((session.ready, None), (session.ready_once, session.until_s)):
                if not flat:
                    continue
                data, codes = flat[2::3], flat[1::3]
                if len(codes) > MAX_BATCH_REQUESTS or set(map(type, data)) != _BYTES:
                    return None
                if max(map(len, data)) > SMALL_ANSWER_BYTES:
                    return None
                blob = pack(flat)
                size_bytes += len(blob)
                if until_s is not None and until_s < expires_s:
                    expires_s = until_s
                failed = len(codes) - codes.count(_OK) - codes.count(_AGAIN) if any(codes) else 0
                parts.append(_new(Part, (session.identity, tuple(flat[0::3]), failed, blob, until_s)))
        if size_bytes > MAX_BATCH_BYTES:
            return None
        self._number += 1
        message: ResultsMessage = _new(ResultsMessage, (self._number, parts, size_bytes, expires_s))
        self._unreceived.append(message)
        self._unreceived_bytes += size_bytes
        if self._unreceived_bytes + self._undelivered_bytes > self._max_bytes:
            self._make_room()
        return message

    def received(self, number: int) -> None:
        """Note that the broker has all messages up to ``number``."""
        while self._unreceived and self._unreceived[0].number <= number:
            batch = self._unreceived.popleft()
            self._unreceived_bytes -= batch.size_bytes
            if batch.expires_s < math.inf:
                once = _once(batch)
                self._undelivered.append(once)
                self._undelivered_bytes += once.size_bytes

    def undelivered(self, numbers: Iterable[int]) -> None:
        """Note that of what has been received the clients have all but these messages."""
        if self._undelivered or self._verdicts:
            missing = set(numbers)
            self._verdicts = deque(batch for batch in self._verdicts if batch.number in missing)
            self._undelivered = deque(batch for batch in self._undelivered if batch.number in missing)
            self._undelivered_bytes = sum(map(_SIZE_BYTES, self._undelivered))

    def expire(self, now_s: float) -> None:
        """Drop what can no longer be asked for."""
        self._verdicts = _unexpired(self._verdicts, now_s)
        self._undelivered = _unexpired(self._undelivered, now_s)
        self._undelivered_bytes = sum(map(_SIZE_BYTES, self._undelivered))
        self._unreceived = _unexpired(self._unreceived, now_s)
        self._unreceived_bytes = sum(map(_SIZE_BYTES, self._unreceived))

    def restart(self) -> None:
        """Note that the connection is a new one, over which :meth:`renumbered` is to be sent."""
        self._unreceived = deque((*self._verdicts, *self._undelivered, *self._unreceived))
        self._unreceived_bytes += self._undelivered_bytes
        self._verdicts.clear()
        self._undelivered.clear()
        self._undelivered_bytes = 0
        self._number = 0

    def renumbered(self) -> list[ResultsMessage]:
        """Number all that is retained from 1, and return it to be sent again."""
        left, self._unreceived = self._unreceived, deque()
        self._number = 0
        self._unreceived_bytes = 0
        return [self._numbered(batch.parts) for batch in left]

    def retained(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield the requests whose results are retained, for HELLO."""
        for part in self._parts():
            yield part.session, part.seqs

    def _parts(self) -> Iterator[Part]:
        for batches in (self._verdicts, self._undelivered, self._unreceived):
            for batch in batches:
                yield from batch.parts

    def _numbered(self, parts: list[Part]) -> ResultsMessage:
        self._number += 1
        batch = _batch(self._number, parts)
        self._unreceived.append(batch)
        self._unreceived_bytes += batch.size_bytes
        return batch

    def _make_room(self) -> None:
        """Drop as much as it takes: answers that the broker has, then what may run again."""
        while self.retained_bytes > self._max_bytes and self._undelivered:
            batch = self._undelivered.popleft()
            self._undelivered_bytes -= batch.size_bytes
            self._verdicts.append(_batch(batch.number, [part._replace(blob=b"") for part in batch.parts]))
        if not self.full:
            return
        left: deque[ResultsMessage] = deque()
        while self._unreceived:
            batch = self._unreceived.popleft()
            if self.full:
                self._unreceived_bytes -= batch.size_bytes
                batch = _once(batch)
                self._unreceived_bytes += batch.size_bytes
            if batch.parts:
                left.append(batch)
        self._unreceived = left


def _batch(number: int, parts: list[Part]) -> ResultsMessage:
    size_bytes, expires_s = 0, math.inf
    for part in parts:
        size_bytes += len(part.blob)
        if part.until_s is not None and part.until_s < expires_s:
            expires_s = part.until_s
    return ResultsMessage(number, parts, size_bytes, expires_s)


def _once(batch: ResultsMessage) -> ResultsMessage:
    """Leave out the parts whose requests may run more than once."""
    parts = [part for part in batch.parts if part.until_s is not None]
    return batch if len(parts) == len(batch.parts) else _batch(batch.number, parts)


def _unexpired(batches: deque[ResultsMessage], now_s: float) -> deque[ResultsMessage]:
    """Leave out the parts of which no request can be asked for again."""
    left: deque[ResultsMessage] = deque()
    for batch in batches:
        if batch.expires_s <= now_s:
            parts = [part for part in batch.parts if part.until_s is None or part.until_s > now_s]
            batch = _batch(batch.number, parts)
        if batch.parts:
            left.append(batch)
    return left


def _encoded(flat: list[Any]) -> list[tuple[list[Any], bytes]]:
    """Cut flat results into parts and encode them."""
    try:
        encoded = [(chunk, wire.encode_blob(chunk)) for chunk in _chunks(flat)]
        if all(len(blob) <= MAX_ANSWER_BYTES for _, blob in encoded):
            return encoded
    except (TypeError, ValueError, OverflowError):
        pass  # a kind's answer that is not bytes
    flat = _mended(flat)
    return [(chunk, wire.encode_blob(chunk)) for chunk in _chunks(flat)]


def _mended(flat: list[Any]) -> list[Any]:
    """Replace each answer that its client, or the broker, could not take by an error.

    It would make all others of its message unreadable.
    """
    mended: list[Any] = []
    for seq, code, data in zip(flat[0::3], flat[1::3], flat[2::3], strict=True):
        if not isinstance(data, bytes | bytearray | memoryview):
            text = f"its kind answered with {type(data).__name__} instead of bytes"
        elif len(data) > MAX_ANSWER_BYTES:
            text = f"an answer of {len(data)} bytes; at most {MAX_ANSWER_BYTES} are allowed"
        else:
            mended += (seq, code, bytes(data))
            continue
        mended += (seq, Code.BAD_RESPONSE, wire.encode_error(text, sent=True))
    return mended


def _chunks(flat: list[Any]) -> Iterator[list[Any]]:
    """Cut flat results into parts of at most 512 results and, one larger result aside, 1 MiB."""
    if len(flat) <= 3 * MAX_BATCH_REQUESTS and sum(map(len, flat[2::3])) <= MAX_BATCH_BYTES:
        yield flat
        return
    begin = size = 0
    for at in range(0, len(flat), 3):
        length = len(flat[at + 2])
        if at > begin and (at - begin == 3 * MAX_BATCH_REQUESTS or size + length > MAX_BATCH_BYTES):
            yield flat[begin:at]
            begin, size = at, 0
        size += length
    yield flat[begin:]

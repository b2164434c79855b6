"""Results on their way to the broker: numbered, and kept until they have arrived. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from reqpool import wire
from reqpool.errors import Code
from reqpool.wire import MAX_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS


class Part(NamedTuple):
    """Results of one session in one message.

    Attributes:
        failed: how many of them are errors.
        repeatable: may their requests run more than once?
    """

    session: bytes
    seqs: tuple[int, ...]
    failed: int
    blob: bytes
    repeatable: bool


class Batch(NamedTuple):
    """One RESULTS message."""

    number: int
    parts: list[Part]


class Outbox:
    """Batches, from the turn that made them until the broker, or the client, has them.

    Args:
        max_bytes: what may be kept. Past it, results of requests that may run again are not kept any longer
            once they are sent; with the others over it, :attr:`full` is true and no lease should be taken.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 0
        self._bytes = 0
        self._unreceived: deque[Batch] = deque()
        self._undelivered: deque[Batch] = deque()

    @property
    def full(self) -> bool:
        """Is there no room for more results?"""
        return self._bytes > self._max_bytes

    @property
    def kept_bytes(self) -> int:
        """Size of all that is kept."""
        return self._bytes

    def pack(self, results: Iterable[tuple[bytes, list[Any], bool]]) -> list[Batch]:
        """Make numbered batches of (session, flat results, repeatable), keep them, return them."""
        batches: list[Batch] = []
        parts: list[Part] = []
        size = 0
        for session, flat, repeatable in results:
            for chunk, blob in _encoded(flat):
                if parts and size + len(blob) > MAX_BATCH_BYTES:
                    batches.append(self._numbered(parts))
                    parts, size = [], 0
                codes = chunk[1::3]
                failed = len(codes) - codes.count(Code.OK) - codes.count(Code.AGAIN)
                parts.append(Part(session, tuple(chunk[0::3]), failed, blob, repeatable))
                size += len(blob)
        if parts:
            batches.append(self._numbered(parts))
        if self.full:
            self._make_room()
        return batches

    def received(self, number: int) -> None:
        """The broker has all batches up to ``number``."""
        while self._unreceived and self._unreceived[0].number <= number:
            batch = self._unreceived.popleft()
            once = self._strip(batch.parts)
            if once:
                self._undelivered.append(Batch(batch.number, once))

    def undelivered(self, numbers: Iterable[int]) -> None:
        """Of what has been received, the clients have all but these batches."""
        if self._undelivered:
            missing = set(numbers)
            kept = deque(batch for batch in self._undelivered if batch.number in missing)
            gone = (batch for batch in self._undelivered if batch.number not in missing)
            self._bytes -= sum(len(part.blob) for batch in gone for part in batch.parts)
            self._undelivered = kept

    def restart(self) -> None:
        """A new connection: what is kept is to be sent again, numbered anew by :meth:`renumbered`."""
        self._undelivered.extend(self._unreceived)
        self._unreceived, self._undelivered = self._undelivered, deque()
        self._number = 0

    def renumbered(self) -> list[Batch]:
        """Number all that is kept from 1 and return it for sending."""
        kept, self._unreceived = self._unreceived, deque()
        self._number = 0
        self._bytes = 0
        return [self._numbered(batch.parts) for batch in kept]

    def held(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """The requests whose results are kept, for HELLO."""
        for batches in (self._undelivered, self._unreceived):
            for batch in batches:
                for part in batch.parts:
                    yield part.session, part.seqs

    def _numbered(self, parts: list[Part]) -> Batch:
        self._number += 1
        batch = Batch(self._number, parts)
        self._unreceived.append(batch)
        self._bytes += sum(len(part.blob) for part in parts)
        return batch

    def _make_room(self) -> None:
        """Let go of the oldest results whose requests may run again, as many as it takes."""
        kept: deque[Batch] = deque()
        while self._unreceived:
            batch = self._unreceived.popleft()
            if self.full:
                batch = Batch(batch.number, self._strip(batch.parts))
            if batch.parts:
                kept.append(batch)
        self._unreceived = kept

    def _strip(self, parts: list[Part]) -> list[Part]:
        """Only those parts that must not run again; the others' bytes are free."""
        self._bytes -= sum(len(part.blob) for part in parts if part.repeatable)
        return [part for part in parts if not part.repeatable]


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
    """Put an error in the place of each answer that its client, or the broker, could not take.

    It would take all others of its message with it.
    """
    mended: list[Any] = []
    for seq, code, data in zip(flat[0::3], flat[1::3], flat[2::3], strict=True):
        if not isinstance(data, bytes | bytearray | memoryview):
            text = f"its kind answered with {type(data).__name__} instead of bytes"
        elif len(data) > MAX_ANSWER_BYTES:
            text = f"an answer of {len(data)} bytes, at most {MAX_ANSWER_BYTES} are allowed"
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

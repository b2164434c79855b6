"""Everything that a client has been sent of its requests' ends, and what must be true of it."""

from __future__ import annotations

from typing import NamedTuple

from reqpool_contract import wire


class Outcome(NamedTuple):
    """One entry of one published batch."""

    code: int
    data: bytes


class Outcomes:
    """Each entry of each batch, those included that a client ignores because the request has ended already.

    A worker's results are published as they came, so an entry may come again beside one that is new
    (docs/protocol.md, "later ones with the same seq are ignored"). So may results of two workers that had one
    request, where a broker has begun after both: it knows of neither. Nothing else may come twice.

    Attributes:
        by_seq: all entries of a request, in the order in which they came; the first is how it ended.
        reuses_seqs: the client uses numbers a second time, which it must not: all that is checked is that a
            batch stays the same.
    """

    def __init__(self) -> None:
        self.by_seq: dict[int, list[Outcome]] = {}
        self.reuses_seqs = False
        self._numberings = 0
        self._batches: dict[int, bytes] = {}
        self._ended: set[int] = set()

    def begin_numbering(self) -> None:
        """Batches count from 1 again: what has not been acknowledged comes again under other numbers."""
        self._numberings += 1
        self._batches.clear()
        self._ended.clear()

    def take(self, number: int, blob: bytes, *, own: bool) -> None:
        """Note a batch.

        Args:
            number: its place in the present numbering.
            blob: its results.
            own: they are the broker's own verdicts, and not what a worker sent.

        Raises:
            AssertionError: if the batch says what it must not say.
        """
        if number in self._batches:
            assert self._batches[number] == blob, f"batch {number} has come again with other results"
            return
        self._batches[number] = blob
        flat = wire.decode_blob(blob)
        seqs = flat[0::3]
        is_news = not self._ended.issuperset(seqs)
        assert is_news or self.reuses_seqs or (self._numberings > 1 and not own), (
            f"batch {number}: all of {seqs} has ended before"
        )
        for seq, code, data in zip(seqs, flat[1::3], flat[2::3], strict=True):
            outcome = Outcome(code, data)
            if own and not self.reuses_seqs:
                assert seq not in self._ended, f"the broker has ended {seq} a second time"
                first = self.by_seq.get(seq, [outcome])[0]
                assert first == outcome, f"the broker has ended {seq}, which had ended as {first}"
            self._ended.add(seq)
            self.by_seq.setdefault(seq, []).append(outcome)

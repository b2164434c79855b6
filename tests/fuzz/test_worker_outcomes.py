"""A worker under random leases, answers, cancels, losses and freezes: nothing that ran is forgotten."""

from __future__ import annotations

import random

import pytest

from reqpool_contract import wire
from reqpool_contract.grace import ASKED_AGAIN_S
from reqpool_contract.wire import Flag, Reject, Verb
from support.worker_conversation import SESSION, Talk

STEPS = 400
RETAINED_BYTES = 5_000


class Story:
    """One random run, and what is known of it outside of the worker.

    Attributes:
        owed: request that must not be repeated and was sent upstream, to the instant until which its client,
            which has not acknowledged its outcome, may ask for it.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.talk = Talk(retained_bytes=RETAINED_BYTES)
        self.owed: dict[int, float] = {}
        self._seq = 0
        self._batches: dict[int, list[int]] = {}
        self.talk.welcome()

    def run(self) -> None:
        """Take the steps, looking after each."""
        steps = [self.lease] * 6 + [self.answer] * 6 + [self.cancel, self.lose, self.freeze, self.pass_time]
        steps += [self.acknowledge] * 3
        for _ in range(STEPS):
            self.random.choice(steps)()
            self.look()
        # The client and its requests are gone for good: so is what was kept for them.
        self.pass_s(30.0 + 2 * ASKED_AGAIN_S)
        self.pass_s(0.1)
        self.lose()
        assert not self.talk.held()
        assert self.talk.conversation.in_doubt == self.talk.conversation.outbox.retained_bytes == 0

    def lease(self) -> None:
        seqs = range(self._seq, self._seq + self.random.randint(1, 4))
        self._seq = seqs.stop
        flags = self.random.choice([0, 0, int(Flag.IDEMPOTENT)])
        span_ms = self.random.choice([300, 3_000, 30_000])
        before = len(self.talk.upstreams.sent)
        self.talk.lease(*seqs, flags=flags, span_ms=span_ms)
        if not flags:
            for seq in self.talk.upstreams.sent[before:]:
                self.owed[seq] = self.talk.now_s + span_ms / 1000

    def answer(self) -> None:
        running = self.talk.upstreams.running
        if running:
            self.talk.upstreams.answer(self.random.choice(running), bytes(self.random.choice([1, 800])))
            self.talk.turn()

    def cancel(self) -> None:
        running = self.talk.upstreams.running
        if running:
            self.talk.say(Verb.CANCEL, [(SESSION, (self.random.choice(running),))])

    def lose(self) -> None:
        reject = wire.encode(Verb.REJECT, Reject.UNKNOWN, "send HELLO", {})
        self.talk.conversation.take([reject], self.talk.now_s)
        self.reconnect()

    def freeze(self) -> None:
        self.talk.freeze_s(self.random.choice([0.5, 3.0, 20.0]))
        self.talk.turn()
        if len(self.talk.hellos) > self._hellos:
            self.reconnect()

    def pass_time(self) -> None:
        self.pass_s(self.random.choice([0.1, 1.0]))

    def pass_s(self, span_s: float) -> None:
        """Let time pass; what was told so far has been received."""
        self.note()
        self.talk.pass_s(span_s, received=self._received, undelivered=tuple(self._batches))

    def acknowledge(self) -> None:
        """The broker has received all so far; the client has acknowledged some."""
        self.note()
        for number in list(self._batches):
            if self.random.random() < 0.3:
                for seq in self._batches.pop(number):
                    self.owed.pop(seq, None)
        self.talk.beat(self._received, tuple(self._batches))

    _hellos = 1
    _received = 0

    def note(self) -> None:
        """Read the RESULTS that came."""
        for _, _, number, groups in self.talk.heard(Verb.RESULTS):
            self._received = max(self._received, number)
            self._batches[number] = [seq for _, seqs, _ in groups for seq in seqs]

    def reconnect(self) -> None:
        self.note()
        while len(self.talk.hellos) == self._hellos:
            self.talk.pass_s(0.1, beating=False)
        self.note()
        self._batches.clear()
        self._received = 0
        self._hellos += 1
        now_s = self.talk.now_s
        owed = {seq for seq, until_s in self.owed.items() if until_s > now_s}
        assert owed <= self.talk.held(), f"forgotten: {owed - self.talk.held()}"
        self.talk.welcome()

    def look(self) -> None:
        outbox = self.talk.conversation.outbox
        assert outbox.retained_bytes <= RETAINED_BYTES + 4_000 or outbox.full
        assert len(set(self.talk.upstreams.sent)) == len(self.talk.upstreams.sent), "ran twice"


@pytest.mark.parametrize("seed", range(30))
def test_what_ran_and_must_not_be_repeated_is_held_until_nobody_can_ask_again(seed: int) -> None:
    Story(seed).run()

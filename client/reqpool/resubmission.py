"""What is known about pending requests when a session reopens: docs/protocol.md#a-clients-session. Sans-IO.

What a lost broker knew is lost with it. A request that must not be repeated may be resubmitted only with a
watermark, which proves that no worker of a dead broker has it, or if the broker has reported that it never
ran.
"""

from __future__ import annotations

import math
from collections import deque

from reqpool_contract import wire

from .session_actions import Opened

EXPIRY_SHARE = 0.9
"""Part of the session expiry after which a broker that has not heard from this client may have forgotten it:
clocks run at different speeds."""


class Resubmission:
    """Gathers what brokers report about pending requests, until the next connection opens.

    Attributes:
        under_way: whether some of what was pending when the session opened has not been submitted yet.
        expiry_s: time without a message from this client after which a broker forgets the session.
        offered_watermark: the watermark of WELCOME, for what is first sent on this connection.
    """

    def __init__(self) -> None:
        self.under_way = False
        self.expiry_s = wire.SESSION_EXPIRY_MS / 1000
        self.offered_watermark = b""
        self._watermark = b""
        self._watermark_settled = False
        self._settled_through: int | None = None
        self._unrun = self._unrun_all = False
        self._never_ran: tuple[tuple[int, int], ...] = ()
        self._doubtful: tuple[tuple[int, int], ...] = ()
        self._dialed_s = 0.0
        self._confirmed_s = math.inf  # nothing was sent that a broker could have forgotten
        self._beats: deque[tuple[int, float]] = deque()

    # --- what the broker reports ---------------------------------------------------------------------

    def welcomed(self, watermark: bytes, expiry_s: float) -> None:
        """Note the contents of WELCOME."""
        self.offered_watermark = watermark
        self.expiry_s = expiry_s

    def dropped(self, never_ran: tuple[tuple[int, int], ...]) -> None:
        """Note ranges of sequence numbers that the broker dropped unrun."""
        self._never_ran += never_ran

    def watermark_rose(self, watermark: bytes) -> None:
        """Note a heartbeat's watermark, which covers everything pending that was sent so far."""
        self._watermark = watermark
        self._watermark_settled = True

    def said_goodbye(self, unrun: bool, is_settled: bool, doubtful: tuple[tuple[int, int], ...]) -> None:
        """Note the contents of GOODBYE.

        Args:
            unrun: nothing that must not be repeated has run, except for ``doubtful``.
            is_settled: that includes what had been resubmitted.
            doubtful: ranges of sequence numbers.
        """
        self._unrun = unrun
        self._unrun_all = unrun and is_settled
        self._doubtful = doubtful

    def is_settled(self, acked: int) -> bool:
        """Return whether the outcomes of all resubmitted requests are known.

        Only then do the broker's reports cover everything that is pending.

        Args:
            acked: number of the last SUBMIT that the broker has taken.
        """
        return self._settled_through is not None and acked >= self._settled_through

    # --- the connection's life --------------------------------------------------------------------

    def dialled(self, now_s: float) -> None:
        """Note that HELLO is sent."""
        self._beats.clear()
        self._dialed_s = now_s

    def beat(self, number: int, now_s: float) -> None:
        """Note that the client's heartbeat of this number is sent."""
        self._beats.append((number, now_s))

    def confirmed(self, number: int) -> None:
        """Note that the broker has seen the client's heartbeat of this number."""
        while self._beats and self._beats[0][0] <= number:
            self._confirmed_s = self._beats.popleft()[1]

    def opened(self, now_s: float) -> Opened:
        """Return what to do with everything that is pending, now that the session is open."""
        # A broker that had not heard from us for that long has forgotten the session, and perhaps its leases.
        known = now_s - self._confirmed_s < self.expiry_s * EXPIRY_SHARE
        opened = Opened(
            self._never_ran,
            self._watermark if known else b"",
            self._watermark_settled or not known,
            self._unrun,
            self._unrun_all,
            self._doubtful,
        )
        self._never_ran = self._doubtful = ()
        self._unrun = self._unrun_all = False
        self._watermark, self._watermark_settled = self.offered_watermark, False
        self._confirmed_s = self._dialed_s
        self.under_way, self._settled_through = True, None
        return opened

    def done(self, submits: int) -> None:
        """Note that all that was pending when the session opened has been submitted.

        Args:
            submits: number of the last SUBMIT with some of it.
        """
        self.under_way = False
        self._settled_through = submits

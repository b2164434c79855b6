"""Requests while no broker can be reached: what is logged, what their errors say, and whether they wait.
Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from reqpool_contract.descriptors import SHORTAGES

from .session_actions import Action
from .session_protocol import SessionProtocol
from .session_state import SessionState

if TYPE_CHECKING:
    from reqpool_contract.counted_log import CountedLog

EMBEDDED_POLL_S = 0.05
"""Interval of checks of an embedded cluster that starts."""
WARN_AFTER_S = 2.0
"""Time for which requests wait for a broker before that is logged."""


class Outage:
    """The reasons why a session is not open.

    Attributes:
        warn_s: when to warn that no broker answers, monotonic; None while one does, infinity after the
            warning.
    """

    def __init__(
        self,
        session: SessionProtocol,
        shown_url: str,
        log: CountedLog,
        exit_text: Callable[[], str | None] | None,
    ) -> None:
        """Begin without an outage.

        Args:
            session: the session.
            shown_url: the broker's URL, without secrets.
            log: for warnings.
            exit_text: for an embedded cluster: returns how it ended by itself, None while it runs. None: the
                cluster is not embedded.
        """
        self.warn_s: float | None = None
        self._session = session
        self._shown_url = shown_url
        self._log = log
        self._exit_text = exit_text
        self._shortage = ""
        """What this process was short of when it last connected; empty if nothing."""

    # --- what happens -----------------------------------------------------------------------------

    def dialled(self) -> None:
        """Note that the intake socket could be opened."""
        self._shortage = ""

    def cannot_dial(self, error: OSError, text: str, now_s: float) -> list[Action]:
        """Note that a socket could not be opened; return the actions that the session asks for."""
        # A shortage of this process may pass.
        session = self._session
        short = error.errno in SHORTAGES
        self._shortage = str(error.strerror) if short else ""
        return (session.give_in if short else session.give_up)(now_s, text)

    def missed(self, now_s: float) -> None:
        """Note that there is no connection."""
        if self.warn_s is None:
            self.warn_s = now_s + WARN_AFTER_S

    def answered(self) -> None:
        """Note that the session is open."""
        if self.warn_s == math.inf:
            self._log.info("the broker at %s answers", self._shown_url)
        self.warn_s = None

    # --- what comes of it -------------------------------------------------------------------------

    def due_s(self, now_s: float, are_pending: bool) -> float:
        """Return when to check again, monotonic."""
        due_s = math.inf
        if self._exit_text is not None and not self._session.ever_open:
            due_s = now_s + EMBEDDED_POLL_S
        if self.warn_s is not None and are_pending:
            due_s = min(due_s, self.warn_s)
        return due_s

    def warn(self, now_s: float, pending: int) -> None:
        """Log once that requests wait, when it is due."""
        if self.warn_s is not None and now_s >= self.warn_s and pending:
            self.warn_s = math.inf
            self._log.warning("requests wait until their timeouts (%d): %s", pending, self.trouble())

    def refusal(self) -> str | None:
        """Return why requests must not wait, or None."""
        session = self._session
        if session.refusal is not None:
            return f"the broker at {self._shown_url}: {session.refusal}"
        if self._exit_text is None or session.state is SessionState.OPEN:
            return None
        ended = self._exit_text()
        return None if ended is None else f"{ended}; its messages are on stderr"

    def trouble(self) -> str:
        """Return what a request that timed out here was waiting for."""
        session = self._session
        last = f" ({session.trouble})" if session.trouble else ""
        if session.state is SessionState.OPEN:
            return "the cluster did not answer in time"
        if self._shortage:
            return f"cannot connect to the broker at {self._shown_url}: {self._shortage}"
        if session.ever_open:
            return f"the connection to the broker at {self._shown_url} was lost{last}"
        if self._exit_text is not None:
            return f"the embedded cluster has not started yet{last}"
        return f"no broker answers at {self._shown_url}{last}: is `reqpool up` running there?"

"""The broker's process: signals, new configurations, and the death of its parent."""

from __future__ import annotations

import gc
import logging
import select
import signal
import time
from collections.abc import Callable

from reqpool_contract.errors import UsageError

from .config import Config, changes
from .server import ORPHANED, PLANNED, BrokerServer

log = logging.getLogger("reqpool")


def prepare_process() -> None:
    """Tune garbage collection for a process whose long-lived objects are all its state.

    The default of a collection every 700 allocations would scan tables of tens of thousands of requests
    over and over; there are no reference cycles on the request path.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class ServerProcess:
    """Runs a server until SIGTERM, SIGINT or the parent's death. The main thread makes it, and calls it.

    Args:
        server: the bound sockets.
        parent: pidfd of the process whose death ends this one, too; None: there is none.
        configure: reads the configuration again at each SIGHUP, or raises UsageError: then the old one stays.
            None: SIGHUP does what it does by default.
    """

    def __init__(
        self, server: BrokerServer, parent: int | None, configure: Callable[[], Config] | None
    ) -> None:
        self._server = server
        self._parent = parent
        self._configure = configure
        self._stopping = self._reloading = False
        self._why = PLANNED
        self._watch = select.poll()

    def run(self) -> int:
        """Serve, then close the server.

        Returns:
            An exit status: see :meth:`.server.BrokerServer.run`.
        """
        if self._configure is not None:
            signal.signal(signal.SIGHUP, self._ask_to_reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        # At once, not at the next tick: workers end with it, and what is leased after that is lost.
        if self._parent is not None:
            self._watch.register(self._parent, select.POLLIN)
            self._server.listen(self._parent, self._look_at_parent)
        status = self._server.run(self._must_stop, self._reload)
        if status == 0:
            self._server.close(self._why)
        return status

    def _ask_to_stop(self, signum: int, frame: object) -> None:
        # At a second signal it still says goodbye: that takes two seconds at most.
        self._stopping = True

    def _ask_to_reload(self, signum: int, frame: object) -> None:
        self._reloading = True

    def _must_stop(self) -> bool:
        return self._stopping and self._server.broker.may_end(time.monotonic())

    def _look_at_parent(self, now_s: float) -> bool:
        if self._watch.poll(0):  # this is called once at the start, whatever has happened
            self._why = ORPHANED
            self._server.end()
        return False

    def _reload(self) -> Config | None:
        if not self._reloading or self._configure is None:
            return None
        self._reloading = False
        try:
            config = self._configure()
        except UsageError as error:
            log.error("the configuration stays as it was:\n%s", error)
            return None
        log.info("new configuration: %s", changes(self._server.broker.config, config) or "nothing changed")
        return config

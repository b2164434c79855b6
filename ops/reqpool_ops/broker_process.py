"""The supervisor's broker: its process, the stand-by process that follows it, and the connections to it.

A broker imports everything and then waits for a line on its standard input; only then does it bind. So a
stand-by can wait while its predecessor serves, and the time without a broker is that of one bind. Starting a
broker takes 0.2 s of CPU: on a busy machine clients would wait for seconds. It costs 16 MB of memory.

Linux facts this relies on: SIOCOUTQ of a Unix stream socket counts what the peer has not read yet (unix(7)).
White space before a JSON text has no meaning (RFC 8259, 2): once a blank has been read, the process has got
as far as reading, and the blank is not part of the line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import signal
import socket
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from reqpool_contract import wire
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import ProtocolError

from .children import Child, ended
from .cluster_spans import BROKER_ENDS_S
from .reign import Reign
from .runtime import CannotStart
from .status import StatusClient

if TYPE_CHECKING:  # it loads all kinds, which takes as long as the rest of a start
    from .checked_config import CheckedConfig

READY_S = 15.0
"""A broker that has not bound its sockets within this span is considered hung."""
HUNG_S = 10.0
"""So is one that leaves a question unanswered for this long."""
FROZEN_S = wire.LIVENESS_MS / 1000
"""So is one that does so for this long without having run. Clients and workers give it up by then."""
UNEASY_S = 1.5
"""A broker that leaves a question unanswered for this long is asked more often."""
GAP_S = 2.0
"""Looks further apart than this show nothing about the time between them: we did not run, either."""
STAND_BY_AFTER_S = 1.0
"""How long after the first broker came up, or the stand-by took over, the next stand-by is started: clients
come first. It does not wait until the present broker serves, which may be killed again and again."""
STAND_BY_AGAIN_S = 30.0
"""When that is tried again if it failed, or if the stand-by has ended."""
RECONNECT_S = 1.0
"""How often connecting to a broker is retried if there were no file descriptors for it."""

log = logging.getLogger("reqpool")


class RunTime:
    """How long a process has not run. One that is busy, or gets little CPU, does run.

    A stopped process does not, and neither does one that waits for something that never happens: the broker's
    loop turns twenty times a second.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._ran = b""
        self._since_s = self._looked_s = -math.inf

    def still_s(self, pid: int, now_s: float) -> float:
        """Look again, and return for how many seconds, as far as was looked, it has not run."""
        ran = _ran(pid)
        if not ran or (pid, ran) != (self._pid, self._ran) or now_s - self._looked_s > GAP_S:
            self._pid, self._ran, self._since_s = pid, ran, now_s
        self._looked_s = now_s
        return now_s - self._since_s


def _ran(pid: int) -> bytes:
    """Return what changes whenever a process's main thread has run; empty if it cannot be read."""
    try:
        # Nanoseconds on the CPU come first: Documentation/scheduler/sched-stats.rst of Linux.
        return Path(f"/proc/{pid}/schedstat").read_bytes().split()[0]
    except (OSError, IndexError):
        return b""


class BrokerProcess:
    """The broker of one cluster, one process after the other.

    Args:
        program: the broker's module; arguments are added.
        url: the intake to bind.
        config: names and policies of upstreams, None if there are none.
        reign: what each broker is told of the workers.

    Attributes:
        child: the present broker.
        standby: the broker that waits for its end, None if there is none.
        urls: of the sockets ``intake``, ``results`` and ``workers``; empty until a broker has bound them.
        ready: whether the present broker has bound them.
    """

    def __init__(self, program: list[str], url: str, config: CheckedConfig | None, reign: Reign) -> None:
        self.child = Child("broker")
        self.standby: Child | None = None
        self.urls: dict[str, str] = {}
        self.ready = False
        self._stand_by_s = math.inf
        self._program = program
        self._url = url
        self._config = config
        self._reign = reign
        # What it has written of its first line.
        self._said = b""
        self._told_s = 0.0
        # The configuration that the present broker was started with, or has been told to read.
        self._config_version = 0
        # Connections to the present broker; None until it is ready.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._intake: StatusClient | None = None
        self._undertaker: zmq.Socket[bytes] | None = None
        self._connect_s = math.inf
        self._asked_s = 0.0
        self._answered_s = 0.0
        self._run_time = RunTime()
        self._log = CountedLog(log)

    @property
    def children(self) -> list[Child]:
        """The present broker, and the stand-by if there is one."""
        return [self.child] if self.standby is None else [self.child, self.standby]

    @property
    def sockets(self) -> list[Any]:
        """Sockets that are readable when the broker has sent something."""
        talk = None if self.ready else self.child.talk
        intake = None if self._intake is None else self._intake.socket
        return [socket for socket in (talk, intake) if socket is not None]

    @property
    def is_uneasy(self) -> bool:
        """Whether it has left a question unanswered for longer than a busy one would, or has yet to bind."""
        if self._intake is None:
            return bool(self.urls) and self.child.process is not None
        return self._asked_s - self._answered_s > UNEASY_S

    # --- life ---

    def start(self, now_s: float) -> None:
        """Start a broker, or have the stand-by take over.

        Args:
            now_s: monotonic seconds.

        Raises:
            CannotStart: if there are not enough file descriptors, processes or memory for the first one.
        """
        if self.standby is not None:
            self.standby.follow(self.child, now_s)
            self.child, self.standby = self.standby, None
            self._stand_by_s = now_s + STAND_BY_AFTER_S
        else:
            try:
                self._launch(self.child, now_s)
            except OSError as error:
                if not self.urls:
                    raise CannotStart(f"cannot start the broker: {error.strerror}") from error
                self.child.put_off(error, now_s)
                return
        self._config_version = self._current_version()  # it reads that once it has its line
        self._said, self._told_s, self.ready = b"", now_s, False
        talk = self.child.talk
        if talk is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended; it will be reaped
                talk.sendall(self._reign.broker_starts())
                talk.shutdown(socket.SHUT_WR)

    def _launch(self, child: Child, now_s: float) -> None:
        arguments = [*self._program, "--bind", self.urls.get("intake", self._url)]
        if self.urls:  # a replacement binds the same addresses, so clients and workers find it
            arguments += ["--results", self.urls["results"], "--workers-url", self.urls["workers"]]
        arguments += ["--parent-pid", str(os.getpid()), "--supervised"]
        if self._config is not None:
            arguments += ["--checked-config", self._config.place]
        child.start(arguments, now_s, talks=True)

    def _current_version(self) -> int:
        return 0 if self._config is None else self._config.version

    def stand_by(self, now_s: float) -> Child:
        """Start the broker that will follow the present one, and return it.

        A stand-by that is already there is replaced, as it runs older code.

        Raises:
            OSError: as :meth:`Child.start`.
        """
        self.drop_standby()
        standby = Child("broker")
        self._launch(standby, now_s)
        self.standby = standby
        assert standby.talk is not None
        standby.talk.sendall(b" ")
        return standby

    @property
    def stand_by_s(self) -> float:
        """When to start a stand-by, monotonic; infinity while there is one, or no broker has been up."""
        return self._stand_by_s if self.standby is None else math.inf

    def keep_standby(self, now_s: float) -> None:
        """Start a stand-by if it is time."""
        if now_s >= self.stand_by_s:
            try:
                self.stand_by(now_s)
            except OSError as error:
                self._log.error("cannot start a stand-by broker: %s", error.strerror)
                self._stand_by_s = now_s + STAND_BY_AGAIN_S

    @property
    def is_standby_warm(self) -> bool:
        """Whether the stand-by has finished its imports and only waits for its line."""
        talk = None if self.standby is None else self.standby.talk
        if talk is None:
            return False
        return int.from_bytes(fcntl.ioctl(talk, termios.TIOCOUTQ, bytes(4)), "little") == 0

    def drop_standby(self) -> None:
        """Kill the stand-by, which has no clients yet."""
        if self.standby is not None:
            self.standby.signal(signal.SIGKILL)
            self.standby.wait()
            self.standby = None

    def dismiss(self, now_s: float) -> None:
        """Have the present broker say goodbye and end."""
        self.child.kill_s = now_s + BROKER_ENDS_S
        self.child.signal(signal.SIGTERM)

    def reap(self, now_s: float) -> tuple[int, int] | None:
        """Note that processes have ended, the stand-by included.

        Returns:
            The pid and exit status of the present broker; None if it has not ended.
        """
        if self.standby is not None:
            pid, status = self.standby.pid, self.standby.reap()
            if status is not None:
                self.standby = None
                self._stand_by_s = now_s + STAND_BY_AGAIN_S
                log.warning(
                    "the stand-by broker (pid %d) %s; replacing it in %g s",
                    pid,
                    ended(status),
                    STAND_BY_AGAIN_S,
                )
        pid, status = self.child.pid, self.child.reap()
        if status is None:
            return None
        self._hang_up()
        self.child.served = self.ready or (self.child.served and status == -signal.SIGKILL)
        self.ready = False
        self._reign.broker_ended()
        return pid, status

    # --- what it sends ---

    def hear(self, now_s: float) -> bool:
        """Read the line that a broker writes once it has bound its sockets; return whether it has come."""
        talk = self.child.talk
        if self.ready or talk is None:
            if now_s >= self._connect_s:
                self._connect(now_s)
            return False
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._said += talk.recv(65536, socket.MSG_DONTWAIT)
        line, newline, _ = self._said.partition(b"\n")
        if not newline:
            self._judge_start(now_s)
            return False
        if not self.urls:
            self._stand_by_s = now_s + STAND_BY_AFTER_S
        said = json.loads(line)
        # A dual-stack socket reports its IPv4 address in the mapped form (RFC 4291, 2.5.5.2).
        self.urls = {
            name: said[name].replace("[::ffff:127.0.0.1]", "127.0.0.1")
            for name in ("intake", "results", "workers")
        }
        self.ready = True
        self.tell_config()
        self._connect(now_s)
        return True

    def _judge_start(self, now_s: float) -> None:
        """Kill a broker that hangs before it has bound its sockets."""
        waited_s = now_s - self._told_s
        # A stand-by may have been frozen for hours. The very first broker may have to wait for a slow disk.
        still_s = self._run_time.still_s(self.child.pid, now_s) if self.urls else 0.0
        is_frozen = min(waited_s, still_s) > FROZEN_S
        if is_frozen or waited_s > READY_S:
            log.error(
                "the broker (pid %d) has not bound its sockets%s; killed",
                self.child.pid,
                " and is frozen" if is_frozen else "",
            )
            self._told_s = math.inf
            self.child.signal(signal.SIGKILL)

    def report(self, now_s: float) -> dict[str, Any] | None:
        """Return the newest STATUS report that has come, None if there is none."""
        if self._intake is None:
            return None
        try:
            report = self._intake.answer()
        except ProtocolError as error:
            self._log.error("the broker's report cannot be read: %s", error)
            return None
        if report is not None:
            self._answered_s = now_s
        return report

    def ask(self, now_s: float, every_s: float) -> None:
        """Ask for a report; a broker that leaves the question unanswered for long is killed.

        The report's ``number`` is the instant of its question, in ms: it may come after the next question.

        Args:
            now_s: monotonic seconds.
            every_s: how long ago the last question may be.
        """
        if self._intake is None:
            return
        still_s = self._run_time.still_s(self.child.pid, now_s)
        silent_s = now_s - self._answered_s if self._asked_s > self._answered_s else 0.0
        if silent_s > HUNG_S or min(silent_s, still_s) > FROZEN_S:
            if not self._can_judge(now_s):
                return
            log.error(
                "the broker (pid %d) is alive but has been silent for %.1f s%s; killed",
                self.child.pid,
                silent_s,
                " and is frozen" if still_s > FROZEN_S else "",
            )
            self.child.signal(signal.SIGKILL)
            self._hang_up()
        elif now_s - self._asked_s >= every_s:
            self._asked_s = now_s
            with contextlib.suppress(zmq.Again):  # its silence speaks for itself
                self._intake.ask(int(now_s * 1000))

    def _can_judge(self, now_s: float) -> bool:
        """Return whether it could be reached: without file descriptors libzmq waits in silence."""
        try:
            socket.socket(socket.AF_UNIX).close()
        except OSError as error:
            self._log.error(
                "cannot tell whether the broker (pid %d) hangs: %s", self.child.pid, error.strerror
            )
            self._answered_s = now_s
            return False
        return True

    # --- what is sent to it ---

    def tell_config(self) -> None:
        """Have the broker read a configuration that has changed, as soon as it can handle a signal."""
        version = self._current_version()
        if self.ready and self._config_version != version:
            self._config_version = version
            self.child.signal(signal.SIGHUP)

    def tell_news(self) -> None:
        """Report starts and ends of workers to it; until it can be reached, they wait."""
        if self._undertaker is not None:
            for head in self._reign.take_news():
                self._undertaker.send(head, zmq.DONTWAIT)

    def _connect(self, now_s: float) -> None:
        self._asked_s = self._answered_s = now_s
        self._connect_s = math.inf
        try:
            self._intake = StatusClient(self.urls["intake"], self._context)
            self._undertaker = self._context.socket(zmq.DEALER)
            self._undertaker.linger = 0
            self._undertaker.sndhwm = 0  # a dropped death would put requests in doubt that are not
            self._undertaker.connect(self.urls["workers"])
        except zmq.ZMQError as error:
            self._log.error("cannot connect to the broker: %s; retrying in %g s", error, RECONNECT_S)
            self._hang_up()
            self._connect_s = now_s + RECONNECT_S
            return
        self.tell_news()

    def _hang_up(self) -> None:
        """Close the connections to a broker that is gone: what is left in them is not for its successor."""
        if self._intake is not None:
            self._intake.close()
        if self._undertaker is not None:
            self._undertaker.close(0)
        self._intake = self._undertaker = None
        self._connect_s = math.inf

    def close(self) -> None:
        """Close all connections."""
        self._hang_up()
        self._context.term()

"""``python -m reqpool_broker``: one broker process, usually started by the supervisor."""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from reqpool_contract.descriptors import raise_file_limit
from reqpool_contract.errors import ProtocolError, UsageError

from . import process, server
from .config import EMPTY, Config
from .config_wire import unpack
from .recovery import LiveWorkers

CHECKED_CONFIG_HELP = "a configuration packed by the supervisor; read again at SIGHUP"
SUPERVISED_HELP = "wait for a supervisor's line on standard input before binding"


def read_checked(place: Path) -> Config:
    """Read what the supervisor has packed.

    Raises:
        UsageError: if the file is gone: the supervisor has ended, and this process is about to.
    """
    try:
        return unpack(place.read_bytes())
    except OSError as error:
        raise UsageError(f"the supervisor's configuration cannot be read: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None, configure: Callable[[], Config] | None = None) -> int:
    """Run a broker until it is told to end.

    Args:
        arguments: without the program's name; None takes the process's own.
        configure: reads the configuration, now and at each SIGHUP, or raises UsageError; None: the arguments
            name it, or there is none.

    Returns:
        The exit status: 2 if it could not start, else as :meth:`.process.ServerProcess.run`.
    """
    parser = argparse.ArgumentParser(prog="reqpool_broker", description="Run one reqpool broker.")
    parser.add_argument("--bind", required=True, metavar="URL", help="intake socket, tcp:// or ipc://")
    parser.add_argument("--results", metavar="URL", help="results socket (default: next to the intake)")
    parser.add_argument("--workers-url", metavar="URL", help="workers socket (default: next to the intake)")
    parser.add_argument("--advertise", metavar="URL", help="results URL sent to clients")
    parser.add_argument("--supervised", action="store_true", help=SUPERVISED_HELP)
    parser.add_argument("--checked-config", metavar="PATH", help=CHECKED_CONFIG_HELP)
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="stop when this process is gone")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s broker %(levelname)s %(message)s")
    raise_file_limit()
    try:
        parent = None if options.parent_pid is None else os.pidfd_open(options.parent_pid)
    except ProcessLookupError:
        return 0
    if options.checked_config is not None:
        configure = partial(read_checked, Path(options.checked_config))
    if configure is not None:  # until it can be caught: once we say that we are ready, one may come
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    process.prepare_process()
    try:
        predecessors = None
        if options.supervised:
            line = sys.stdin.readline()
            if not line.strip():  # it has gone; to one that stands by it has sent a blank before
                return 0
            predecessors = LiveWorkers.read(line)
        # We may have been frozen since: by now the addresses may be those of a new supervisor's broker.
        if parent is not None and select.select([parent], [], [], 0.0)[0]:
            return 0
        config = EMPTY if configure is None else configure()
        served = server.BrokerServer(
            options.bind,
            options.results,
            options.workers_url,
            options.advertise,
            predecessors,
            config,
        )
    except (UsageError, ProtocolError) as error:
        print(f"reqpool broker: {error}", file=sys.stderr)
        return 2
    ready = {**served.urls, "pid": os.getpid(), "epoch": served.broker.epoch}
    print(json.dumps(ready), flush=True)
    return process.ServerProcess(served, parent, configure).run()


if __name__ == "__main__":
    sys.exit(main())

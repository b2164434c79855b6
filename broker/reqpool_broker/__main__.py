"""``python -m reqpool_broker``: one broker process, usually started by the supervisor."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from reqpool_contract.descriptors import raise_file_limit
from reqpool_contract.errors import ProtocolError, UsageError

from . import server
from .config import EMPTY, Config, unpack
from .recovery import LiveWorkers

SUPERVISED_HELP = "wait for a supervisor's line on standard input before binding"
STANDS_BY_HELP = "with --supervised: load all kinds before that line comes"


def configuration(arguments: argparse.Namespace) -> Callable[[], Config] | None:
    """Return what reads the configuration that the arguments name; None if they name none."""
    if arguments.config is not None:
        from . import config_file  # a third of a start, and a supervised broker gets what came of the file

        return lambda: config_file.load(arguments.config)
    if arguments.checked_config is not None:
        return lambda: read_checked(Path(arguments.checked_config))
    return None


def read_checked(place: Path) -> Config:
    """Read what the supervisor has packed.

    Raises:
        UsageError: if the file is gone: the supervisor has ended, and this process is about to.
    """
    try:
        return unpack(place.read_bytes())
    except OSError as error:
        raise UsageError(f"the supervisor's configuration cannot be read: {error.strerror}") from error


def load_kinds() -> None:
    """Load what is else loaded in the middle of a turn, for the first request of each kind: 0.1 s in all."""
    from .config_file import installed

    with contextlib.suppress(OSError):  # no file descriptor is left: perhaps one is then
        installed()


def main() -> int:
    parser = argparse.ArgumentParser(prog="reqpool_broker", description="Run one reqpool broker.")
    parser.add_argument("--bind", required=True, metavar="URL", help="intake socket, tcp:// or ipc://")
    parser.add_argument("--results", metavar="URL", help="results socket (default: next to the intake)")
    parser.add_argument("--workers-url", metavar="URL", help="workers socket (default: next to the intake)")
    parser.add_argument("--advertise", metavar="URL", help="results URL sent to clients")
    parser.add_argument("--supervised", action="store_true", help=SUPERVISED_HELP)
    parser.add_argument("--stands-by", action="store_true", help=STANDS_BY_HELP)
    configs = parser.add_mutually_exclusive_group()
    configs.add_argument("--config", metavar="PATH", help="reqpool.toml; read again at SIGHUP")
    configs.add_argument("--checked-config", metavar="PATH", help="the same, packed by the supervisor")
    parser.add_argument("--parent-pid", type=int, metavar="PID", help="stop when this process is gone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s broker %(levelname)s %(message)s")
    raise_file_limit()
    try:
        parent = None if arguments.parent_pid is None else os.pidfd_open(arguments.parent_pid)
    except ProcessLookupError:
        return 0
    configure = configuration(arguments)
    if configure is not None:  # until it can be caught: once we say that we are ready, one may come
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if arguments.stands_by:
        load_kinds()
    server.prepare_process()
    try:
        predecessors = None
        if arguments.supervised:
            line = sys.stdin.readline()
            if not line.strip():  # it has gone; to one that stands by it has sent a blank before
                return 0
            predecessors = LiveWorkers.read(line)
        # We may have been frozen since: by now the addresses may be those of a new supervisor's broker.
        if parent is not None and select.select([parent], [], [], 0.0)[0]:
            return 0
        config = EMPTY if configure is None else configure()
        served = server.BrokerServer(
            arguments.bind,
            arguments.results,
            arguments.workers_url,
            arguments.advertise,
            predecessors,
            config,
        )
    except (UsageError, ProtocolError) as error:
        print(f"reqpool broker: {error}", file=sys.stderr)
        return 2
    ready = {**served.urls, "pid": os.getpid(), "epoch": served.broker.epoch}
    print(json.dumps(ready), flush=True)
    return server.run(served, parent, configure)


if __name__ == "__main__":
    sys.exit(main())

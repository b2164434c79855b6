"""``python -m reqpool_workers --broker URL``: run one worker process.

Exit status: 0 after an orderly end (:meth:`.worker_process.WorkerProcess.run`), 3 if something was left in
doubt, 130 or 143 if that was because of a second signal, 2 for wrong arguments. SIGTERM kills it only while
it starts, before it has connected to a broker; to the supervisor that is an orderly end, too.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from types import FrameType

from reqpool_contract.descriptors import raise_file_limit
from reqpool_contract.errors import PoolError
from reqpool_contract.wire import WORKER_ID_BYTES

from .protocols.worker_kinds import load
from .worker_process import WorkerProcess

IN_DOUBT = 3
"""Exit status of a worker that ended while it had requests that must not be repeated, or their outcomes."""


def _identity(text: str) -> bytes:
    identity = bytes.fromhex(text)
    if len(identity) != WORKER_ID_BYTES:
        raise ValueError
    return identity


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it gets SIGTERM or SIGINT: the first one drains, the second ends at once."""
    parser = argparse.ArgumentParser(prog="python -m reqpool_workers", description="Run one reqpool worker.")
    parser.add_argument("--broker", required=True, metavar="URL", help="the broker's workers socket")
    parser.add_argument("--name", default="worker", help="name for display")
    parser.add_argument("--id", type=_identity, default=None, metavar="HEX", help="worker id, 32 hex digits")
    parser.add_argument(
        "--parent-pid", type=int, default=None, metavar="PID", help="stop when this process ends"
    )
    parser.add_argument("--log-level", default="warning", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format=f"%(asctime)s {options.name} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    log = logging.getLogger("reqpool_workers")
    raise_file_limit()
    try:
        worker = WorkerProcess(
            options.broker,
            options.id or os.urandom(WORKER_ID_BYTES),
            options.name,
            load(),
            options.parent_pid,
        )
    except ProcessLookupError:
        log.info("the parent process has ended")
        return 0
    except (PoolError, OSError) as error:
        log.error("%s", error)
        return 2
    signals: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # Handlers only queue; the loop acts.
        signals.append(number)
        if len(signals) == 1:
            worker.drain()
        else:
            worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    # Requests are freed by their reference counts; the collector would only walk tens of thousands of them in
    # flight, again and again. Objects made at start stay anyway.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        orderly = worker.run()
    finally:
        # The interpreter restores the default before it ends, and dying of it means that we never began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if orderly:
        return 0
    return 128 + signals[1] if len(signals) > 1 else IN_DOUBT


if __name__ == "__main__":
    sys.exit(main())

"""The blocking peers: threads of one process, or one thread as a synchronous web worker has it.

Each thread has a connection of its own, which spares them the pool's lock. :mod:`bench.tally` has the lines
spoken.
"""

from __future__ import annotations

import argparse
import threading
import time

from . import asked
from .blocking_clients import CLIENTS
from .tally import Tally, ready


def main() -> None:
    """Run the load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=list(CLIENTS))
    parser.add_argument("--subject", choices=asked.NAMES, required=True)
    parser.add_argument("--server", required=True, help="the upstream's URL")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--share", type=float, default=0.0, help="of the targets, to begin with")
    options = parser.parse_args()
    subject = asked.find(options.subject, options.server)
    tally = Tally(subject.targets, options.share)
    lock = threading.Lock()  # the tally's: += is not atomic, and 0.1 µs is nothing beside these requests
    clients = [CLIENTS[options.client](options.server, subject) for _ in range(options.threads)]
    for client in clients:
        subject.check(subject.targets[0], client.ask(subject.targets[0]))

    def ask_on(number: int) -> None:
        client = clients[number]
        failures: tuple[type[BaseException], ...] = (*client.errors, asked.WrongAnswer)
        while True:
            with lock:
                target = tally.next()
            if target is None:
                return
            began_s = time.perf_counter()
            try:
                subject.check(target, client.ask(target))
                with lock:
                    tally.done += 1
            except failures as error:
                with lock:
                    tally.failed(error)
            tally.latencies_s.append(time.perf_counter() - began_s)

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(1, options.threads)]
    tally.open(ready())
    for thread in threads:
        thread.start()
    ask_on(0)
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    tally.report()


if __name__ == "__main__":
    main()

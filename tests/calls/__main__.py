"""Prints how many calls each load takes on each side, and which: ``python -m calls`` in ``tests/``.

usage: python -m calls [WORD ...]      only loads whose names have all of these words
"""

from __future__ import annotations

import sys

from . import test_broker, test_client, test_sockets, test_worker

for load in (*test_client.LOADS, *test_broker.LOADS, *test_worker.LOADS, *test_sockets.LOADS):
    if all(word in load.name for word in sys.argv[1:]):
        print(load.report(load.fewest()), end="\n\n")

"""``reqpool up`` with a broker that forgets a silent session after 2 s instead of 60.

with cluster(program=[impatient.__file__]): …
"""

from __future__ import annotations

import argparse
import sys

from reqpool_contract import wire


def up() -> int:
    """Run a cluster whose broker is this file, too."""
    from reqpool_ops.supervisor import ClusterPlan, Supervisor

    parser = argparse.ArgumentParser()
    parser.add_argument("up")
    parser.add_argument("--bind")
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    return Supervisor(ClusterPlan(options.bind, options.workers, broker=[__file__])).run()


def broker() -> int:
    """Run a broker."""
    from reqpool_broker.__main__ import main

    return main()


if __name__ == "__main__":
    # Before the broker is imported: there it is the default of an argument.
    wire.SESSION_EXPIRY_MS = 2_000
    sys.exit(up() if "up" in sys.argv else broker())

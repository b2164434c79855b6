"""``python -m reqpool_ops.lone_broker --config PATH``: a broker without a supervisor, with ``reqpool.toml``.

All other options are those of ``python -m reqpool_broker``.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from reqpool_broker.__main__ import main as run_broker

from . import config_file


def main() -> int:
    """Run a broker until it is told to end; it reads the file at its start and at each SIGHUP."""
    parser = argparse.ArgumentParser(prog="reqpool_ops.lone_broker", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", required=True)
    options, others = parser.parse_known_args()
    return run_broker(others, partial(config_file.load, options.config))


if __name__ == "__main__":
    sys.exit(main())

"""The console script ``reqpool``, and ``python -m reqpool_ops``: only what has to happen first."""

import sys

from . import early_signals


def main() -> int:
    """Run the command line."""
    if sys.argv[1:2] == ["up"]:  # before the imports, which take most of its start
        early_signals.hold()
    from .cli import main

    return main()

"""``python -m reqpool_ops`` is ``reqpool``."""

import sys

from . import held_signals

if sys.argv[1:2] == ["up"]:  # before the imports, which take most of its start
    held_signals.hold()

from .cli import main

sys.exit(main())

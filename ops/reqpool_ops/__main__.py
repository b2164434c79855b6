"""``python -m reqpool_ops`` is ``reqpool``."""

import sys

from .cli import main

sys.exit(main())

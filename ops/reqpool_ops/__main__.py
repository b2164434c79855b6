"""``python -m reqpool_ops`` is the same as ``reqpool``."""

import sys

from .console import main

sys.exit(main())

"""``python -m reqpool_ops`` is ``reqpool``."""

import sys

from .console import main

sys.exit(main())

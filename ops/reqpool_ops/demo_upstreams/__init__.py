"""The demo's upstreams on loopback, all started by ``python -m reqpool_ops.demo_upstreams``.

Real servers are used if they are installed, in a temporary folder (``servers``), as they are more convincing
than built-in ones (``own``), which exist for DNS and HTTP. Redis and MariaDB are left out if missing.
"""

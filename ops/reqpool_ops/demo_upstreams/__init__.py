"""The demo's upstreams on loopback, all started by ``python -m reqpool_ops.demo_upstreams``.

Where a real server is installed it is that one, in a temporary folder (``servers``): it says more than one of
our own (``own``), which there is for DNS and HTTP. Redis and MariaDB are left out if they are not installed.
"""

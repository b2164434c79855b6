"""A web app as a business has it: synchronous, pre-forked, and each of its requests waits for a look-up.

gunicorn support.web_app:app        GET /NAME  ->  200 "PID ADDRESS"        GET /  ->  200 "PID "

``$APP_DNS`` is the name server. The pool is made at import; with ``$APP_WARM`` it is used at import, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import reqpool

SERVER = os.environ["APP_DNS"]
pool = reqpool.Pool(timeout=20.0, workers=None if "REQPOOL_URL" in os.environ else 1)

if "APP_WARM" in os.environ:
    pool.dns("warm.test", server=SERVER).result()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Look the path up and answer with what was found."""
    name = environ["PATH_INFO"].strip("/")
    found = pool.dns(name, server=SERVER).result().records[0].value if name else ""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {found}".encode()]

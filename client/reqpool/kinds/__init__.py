"""Kinds: what a request can ask for. This is the client half of one; the worker half does the talking.

A kind is registered under one name in two entry-point groups, ``reqpool.kinds`` (an object of
:class:`Kind`, found here) and ``reqpool.worker_kinds`` (found by the workers), so anybody can publish a
package that adds one: see ``docs/kinds.md``.
"""

from reqpool_contract.origin_names import Endpoint

from .kind import Kind
from .registry import find
from .route import Asked, Followed, Route, with_idempotence

__all__ = ["Asked", "Endpoint", "Followed", "Kind", "Route", "find", "with_idempotence"]

"""memcached through a reqpool: ``pool.submit("memcached", …)``, or :func:`memcached`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client import Item, MemcachedError

if TYPE_CHECKING:
    import reqpool

__all__ = ["Item", "MemcachedError", "memcached"]


def memcached(
    pool: reqpool.Pool, target: str, command: str, *arguments: Any, **options: Any
) -> reqpool.Future[Any]:
    """Send one command: ``memcached(pool, "127.0.0.1:11211", "set", "k", b"value", expire=60)``.

    Args:
        pool: the pool to use.
        target: see :meth:`reqpool_memcached.client.MemcachedKind.encode`.
        command: the command's name; the README has the table.
        *arguments: its arguments.
        **options: ``expire`` and ``flags``, and those of :meth:`reqpool.Pool.submit`.

    Raises:
        UsageError: if anything about it is wrong.
    """
    return pool.submit("memcached", target, (command, *arguments), **options)

"""What is left when everybody has gone: requests, sessions, descriptors, memory, processes, sockets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psutil

from reqpool_contract.errors import BrokerUnavailable
from reqpool_contract.wire import SESSION_EXPIRY_MS
from reqpool_ops import status
from reqpool_workers.owed_ports import KEPT_S
from support.wait import wait_until

from .arena import Arena

SETTLE_WITHIN_S = KEPT_S + 20.0
"""Workers keep ports at which an answer may yet come."""
MORE_FDS = 8
"""More descriptors than a fresh process had that are no leak: an idle connection may live a little longer."""
MORE_BYTES = 200 << 20
EXPIRED_S = SESSION_EXPIRY_MS / 1000 + 5.0

ROLES = {"supervisor": "reqpool_ops", "broker": "reqpool_broker", "worker": "reqpool_workers"}


def most_fds(arena: Arena) -> dict[str, int]:
    """Return how many descriptors are open by role, of the process with the most."""
    return _most(arena, lambda process: int(process.num_fds()))


def most_bytes(arena: Arena) -> dict[str, int]:
    """Return the resident memory by role, of the largest process."""
    return _most(arena, lambda process: int(process.memory_info().rss))


def _most(arena: Arena, figure: Callable[[psutil.Process], int]) -> dict[str, int]:
    found = dict.fromkeys(ROLES, 0)
    for role, module in ROLES.items():
        for process in arena.children(module):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[role] = max(found[role], figure(process))
    return found


def in_service(arena: Arena, fds: dict[str, int], rss_bytes: dict[str, int]) -> list[str]:
    """Look at a cluster whose clients have gone.

    Args:
        arena: with the cluster running.
        fds: :func:`most_fds` of the fresh cluster.
        rss_bytes: :func:`most_bytes` of the fresh cluster.

    Returns:
        A line for each leak.
    """
    leaks: list[str] = []

    def settled() -> bool:
        leaks[:] = _left_at_broker(arena)
        leaks.extend(
            f"{role}: {now} descriptors, {fds[role]} at first"
            for role, now in most_fds(arena).items()
            if now > fds[role] + MORE_FDS
        )
        return not leaks

    with contextlib.suppress(AssertionError):
        wait_until(settled, SETTLE_WITHIN_S)
    leaks.extend(
        f"{role}: {now >> 20} MiB of memory, {rss_bytes[role] >> 20} at first"
        for role, now in most_bytes(arena).items()
        if now > rss_bytes[role] + MORE_BYTES
    )
    return leaks


def _left_at_broker(arena: Arena) -> list[str]:
    try:
        report = status.fetch(arena.url, 1.0)
    except BrokerUnavailable as error:
        return [str(error)]
    left = [
        f"origin {name}: {origin[what]} {what}"
        for name, origin in report["origins"].items()
        for what in ("queued", "in_flight")
        if origin[what]
    ]
    left += [
        f"{worker['name']}: {worker['in_flight']} in flight"
        for worker in report["workers"]
        if worker["in_flight"]
    ]
    left += [
        f"session {session['name']} has been silent for {session['silent_s']:.0f} s"
        for session in report["sessions"]
        if session["silent_s"] > EXPIRED_S
    ]
    return left


def after_the_end(arena: Arena) -> list[str]:
    """Stop the cluster and look at what it leaves; return a line for each leak."""
    status_code = arena.stop()
    leaks = [f"the supervisor ended with status {status_code}"] if status_code else []
    leaks += [f"process {process.pid} runs on" for process in arena.left()]
    leaks += [f"socket {name} is left" for name in arena.sockets()]
    if "Traceback" in arena.log("cluster"):
        leaks.append("there is a traceback in the cluster's log")
    if "Traceback" in arena.log("producers"):
        leaks.append("there is a traceback in the producers' log")
    return leaks

"""Loopback ports for servers that cannot bind port 0 themselves."""

from __future__ import annotations

import contextlib
import random
import socket

HOST = "127.0.0.1"
_given: set[int] = set()


def udp_tcp_pair(host: str = HOST) -> tuple[socket.socket, socket.socket]:
    """Bind a UDP socket and a TCP socket to one and the same free port."""
    while True:
        tcp = socket.create_server((host, 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind((host, tcp.getsockname()[1]))
        except OSError:  # somebody has this port for UDP
            udp.close()
            tcp.close()
        else:
            return udp, tcp


def free_port(host: str = HOST) -> int:
    """Return a port that is free now, for UDP and TCP, and was not given before: a server may want several.

    Somebody else may take it before you do.
    """
    while True:
        udp, tcp = udp_tcp_pair(host)
        with udp, tcp:
            port = int(tcp.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def three_free_ports(host: str = HOST) -> int:
    """Return the first of three adjacent TCP ports that are free now, as a cluster takes them.

    They lie below those that the kernel gives to connections (from 32768 on, ip_local_port_range), any of
    which may be somebody's an instant later.
    """
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 3):
                stack.enter_context(socket.create_server((host, port)))
            return first

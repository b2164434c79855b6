"""Loopback ports for servers that cannot bind port 0 themselves."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


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
    """Return a port that is free now, for UDP and TCP. Somebody else may take it before you do."""
    udp, tcp = udp_tcp_pair(host)
    with udp, tcp:
        return int(tcp.getsockname()[1])

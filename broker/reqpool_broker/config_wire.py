"""A configuration as a supervisor hands it to its broker: in memory, secrets and all. No I/O, no clock."""

from __future__ import annotations

from dataclasses import asdict

import msgpack

from reqpool_contract.origin_names import Endpoint
from reqpool_contract.policy import Policy

from .client_limits import ClientLimits
from .config import Config, NamedUpstream


def pack(config: Config) -> bytes:
    """Write a configuration for :func:`unpack`."""
    rows = [
        (up.name, up.kinds, tuple(up.endpoint), tuple(up.unnamed), asdict(up.policy))
        for up in config.upstreams.values()
    ]
    packed: bytes = msgpack.packb((rows, asdict(config.defaults), asdict(config.clients)))
    return packed


def unpack(packed: bytes) -> Config:
    """Read what :func:`pack` wrote."""
    rows, defaults, clients = msgpack.unpackb(packed)
    return Config(
        [
            NamedUpstream(name, tuple(kinds), Endpoint(*endpoint), Endpoint(*unnamed), Policy(**policy))
            for name, kinds, endpoint, unnamed, policy in rows
        ],
        Policy(**defaults),
        ClientLimits(**clients),
    )

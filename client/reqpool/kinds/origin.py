"""Origins, for kinds of third parties: defined in :mod:`reqpool_contract.origin_names`."""

from reqpool_contract.host_names import netloc
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import (
    NAME,
    Endpoint,
    Url,
    endpoint,
    host_and_port,
    named,
    parse,
    upstream_of,
)
from reqpool_contract.tls_settings import Tls

__all__ = [
    "NAME",
    "Endpoint",
    "Tls",
    "Url",
    "endpoint",
    "host_and_port",
    "named",
    "netloc",
    "parse",
    "upstream_of",
    "without_password",
]

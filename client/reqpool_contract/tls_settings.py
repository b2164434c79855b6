"""TLS settings: what an app specifies for a connection, and the form in which workers get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import descriptors, wire
from .errors import UsageError
from .host_names import as_served, canonical_host


@dataclass(frozen=True)
class Tls:
    """How a connection is secured.

    The app's process reads the files when they are first used, once in its life, and sends their contents:
    workers do not need access to them.

    Attributes:
        ca: path of a PEM file with the authorities to trust; None: those of the system.
        cert: path of a PEM file with the client's certificate (chain), and its key if ``key`` is None.
        key: path of a PEM file with the key, unencrypted.
        verify: False: accept any certificate. Then anyone in between can read and change the traffic.
        server_name: the name to request, and to find in the certificate; None: the URL's host.
    """

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    verify: bool = True
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Check the types, since objects go into caches and to the workers.

        Raises:
            UsageError: an attribute has another type.
        """
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise UsageError(f"tls {name}= must be the path of a PEM file, not {type(path).__name__}")
        if type(self.verify) is not bool:
            raise UsageError(f"tls verify={self.verify!r}: must be True or False")
        if self.server_name is not None:
            if not isinstance(self.server_name, str):
                raise UsageError(f"tls server_name= must be a string, not {type(self.server_name).__name__}")
            try:
                canonical_host(self.server_name)
            except UsageError as error:
                raise UsageError(f"tls server_name={error.text}") from error

    def settings(self) -> dict[str, Any]:
        """Return the settings as worker halves need them: contents, not paths, and without defaults.

        Raises:
            UsageError: a file cannot be read or has wrong contents, or the files are too large.
            Overloaded: the process is short of file descriptors.
        """
        if self.key is not None and self.cert is None:
            raise UsageError("tls: a key without a certificate: give cert= as well")
        about: dict[str, Any] = {}
        if self.ca is not None or self.cert is not None:
            with descriptors.as_overloaded():
                descriptors.check_spare()
                from . import pem  # loads ssl, which apps without TLS do not need
        if self.ca is not None:
            about["ca"] = pem.authorities(self.ca)
        if self.cert is not None:
            about["cert"], key = pem.own(self.cert, self.key)
            if key is not None:
                about["key"] = key
        sizes = {name: len(text) for name, text in about.items()}
        if sum(sizes.values()) > wire.MAX_SETTINGS_BYTES:
            files = ", ".join(
                f"{name}={str(getattr(self, name))!r} has {n} bytes" for name, n in sizes.items()
            )
            raise UsageError(f"tls: {files}; at most {wire.MAX_SETTINGS_BYTES} bytes in all are allowed")
        if not self.verify:
            about["verify"] = False
        if self.server_name is not None:
            about["server_name"] = as_served(canonical_host(self.server_name))
        return about


Tls.__module__ = "reqpool.kinds.origin"  # where apps find it, in pickles too

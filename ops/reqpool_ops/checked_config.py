"""The last valid ``reqpool.toml``, for the broker and for those that replace it.

The supervisor reads and checks the file; the broker is given the result. So what runs is what was checked,
and a new broker starts with its predecessor's configuration, whatever has happened to the file, to password
files and to certificates in the meantime. It is kept in memory (memfd_create(2)), never on disk, as it
contains the secrets.
"""

from __future__ import annotations

import os

from reqpool_broker.config import Config, changes
from reqpool_broker.config_wire import pack

from . import config_file


class CheckedConfig:
    """A configuration file and the last valid configuration read from it.

    Args:
        path: of the file.

    Attributes:
        config: the last valid configuration.
        version: how often it has changed.

    Raises:
        ConfigError: if anything about the file is wrong.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self.config: Config = config_file.load(path)
        self.version = 0
        self._fd = _in_memory(self.config)

    @property
    def place(self) -> str:
        """Path at which a process of this user can read it, packed, for as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def reload(self) -> str:
        """Read the file again.

        Returns:
            The names of what changed; empty if nothing did.

        Raises:
            ConfigError: if anything about it is wrong; the configuration then stays as it was.
            OSError: if there are not enough file descriptors; likewise.
        """
        config = config_file.load(self._path)
        said = changes(self.config, config)
        # A new file replaces the old one: a process that is reading the old one can read it to its end.
        fresh = _in_memory(config)
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self.config = config
        self.version += bool(said)
        return said

    def close(self) -> None:
        """Release the memory."""
        os.close(self._fd)


def _in_memory(config: Config) -> int:
    fd = os.memfd_create("reqpool-config")
    os.fchmod(fd, 0o600)
    packed = pack(config)
    while packed:
        packed = packed[os.write(fd, packed) :]
    return fd

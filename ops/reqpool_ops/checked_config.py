"""``reqpool.toml`` as it was when it was last found right, for the broker and for those that replace it.

The supervisor reads and checks the file; the broker is handed what came of it. So what is checked is what
runs, and a broker that is replaced starts with what its predecessor ran with, whatever has become of the
file, of password files and of certificates meanwhile. It lies in memory (memfd_create(2)), never on disk: the
secrets are in it.
"""

from __future__ import annotations

import os

from reqpool_broker.config import Config, changes
from reqpool_broker.config_wire import pack

from . import config_file


class CheckedConfig:
    """A configuration file and what was last read of it.

    Args:
        path: of the file.

    Attributes:
        config: what was last found right.
        version: how often that has changed.

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
        """Read the file anew.

        Returns:
            What changed, by name; empty if nothing did.

        Raises:
            ConfigError: if anything about it is wrong; what was right before stays.
            OSError: if there are not enough file descriptors; likewise.
        """
        config = config_file.load(self._path)
        said = changes(self.config, config)
        # A new one in the place of the old: who is reading the old one reads it to its end.
        fresh = _in_memory(config)
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self.config = config
        self.version += bool(said)
        return said

    def close(self) -> None:
        """Forget it."""
        os.close(self._fd)


def _in_memory(config: Config) -> int:
    fd = os.memfd_create("reqpool-config")
    os.fchmod(fd, 0o600)
    packed = pack(config)
    while packed:
        packed = packed[os.write(fd, packed) :]
    return fd

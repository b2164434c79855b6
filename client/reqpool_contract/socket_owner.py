"""Whose is the socket at an ipc URL? What is asked of a pool may hold passwords: it goes to nobody else.

Facts it relies on:

* Whoever may write into a folder may put a socket of his own in the place of another; in a sticky one, as
  /tmp is, before the other is there (unlink(2), EPERM). So the folder counts as well as the socket.
* In a user namespace ids that are not mapped show as 65534 (user_namespaces(7)): nobody's, so not ours.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from .masking import without_password
from .peer_credentials import PeerCredentials

WRITE = 0o022
"""Mode bits that let others write."""
ALL = 0o077
"""Mode bits that let others do anything at all."""


def check_folder(folder: Path, closed: int) -> None:
    """Check that a folder is this user's, or root's, and closed to others.

    Args:
        folder: not followed if it is a link.
        closed: mode bits that it must not have, :data:`WRITE` or :data:`ALL`.

    Raises:
        FileNotFoundError: it does not exist.
        PermissionError: it is not; says what would be right.
        OSError: it cannot be looked at, or is not a folder. The ``strerror`` of each is the whole text.
    """
    about = _look(folder)
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
    _check_owner(folder, about)
    if about.st_mode & closed:
        mode = stat.S_IMODE(about.st_mode)
        way = "use your own folder inside it" if mode & stat.S_ISVTX else "chmod 700 it"
        raise _refused(f"{folder} is open to others (mode {mode:04o}); {way}")


def check(url: str) -> None:
    """Check that nobody else can be who answers at a broker's URL; of a tcp URL nothing can be known.

    Nothing there yet is fine.

    Raises:
        OSError: somebody else can; names the path, its owner or mode, and what would be right.
    """
    scheme, _, name = url.partition("://")
    if scheme != "ipc":
        return
    if name.startswith("@"):  # an abstract socket: there is no file
        _check_listener("\0" + name[1:], without_password(url))
        return
    path = Path(os.path.realpath(name))  # Path.resolve() raises RuntimeError for a loop of links
    try:
        check_folder(path.parent, WRITE)
        about = _look(path)
    except FileNotFoundError:
        return
    _check_owner(path, about)
    _check_listener(os.fspath(path), os.fspath(path))


def _look(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def _refused(text: str) -> OSError:
    return PermissionError(errno.EACCES, text)


def _check_owner(path: Path, about: os.stat_result) -> None:
    if about.st_uid not in (os.geteuid(), 0):
        mode = stat.S_IMODE(about.st_mode)
        raise _refused(
            f"{path} belongs to user id {about.st_uid} (mode {mode:04o}), not to you ({os.geteuid()})"
        )


def _check_listener(address: str, shown: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return  # nobody yet, or too many at once: then the owner of the file must do
        except OSError as error:
            raise OSError(error.errno, f"{shown}: {error.strerror}") from error
        pid, uid, _ = PeerCredentials.of(probe)
    if uid not in (os.geteuid(), 0):
        raise _refused(f"process {pid} that listens at {shown} has user id {uid}, not yours ({os.geteuid()})")

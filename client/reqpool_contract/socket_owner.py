"""Whether the socket at an ipc URL is this user's: requests may contain passwords, and must go to no other.

Facts that this relies on:

* A user who may write into a folder may replace a socket in it by another; in a sticky folder, like /tmp,
  only before the socket exists (unlink(2), EPERM). So the folder is checked as well as the socket.
* In a user namespace, ids that are not mapped appear as 65534 (user_namespaces(7)), which is not this user.
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
"""Mode bits that let others do anything."""


def check_folder(folder: Path, closed: int) -> None:
    """Check that a folder belongs to this user or root, and is closed to others.

    Args:
        folder: its path; a symbolic link is not followed.
        closed: mode bits that it must not have, :data:`WRITE` or :data:`ALL`.

    Raises:
        FileNotFoundError: it does not exist.
        PermissionError: it belongs to another user or is open to others; the text says what would be right.
        OSError: it is inaccessible, or not a folder. In all cases ``strerror`` is the whole text.
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
    """Check that no other user can answer at a broker's URL. A tcp URL cannot be checked.

    It is accepted if nothing is there yet.

    Raises:
        OSError: another user can; the text has the path, its owner or mode, and what would be right.
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
            return  # no listener, or too many connections: the owner of the file must suffice
        except OSError as error:
            raise OSError(error.errno, f"{shown}: {error.strerror}") from error
        pid, uid, _ = PeerCredentials.of(probe)
    if uid not in (os.geteuid(), 0):
        raise _refused(f"process {pid} that listens at {shown} has user id {uid}, not yours ({os.geteuid()})")

"""Where a cluster lives: its folder, its lock, and the addresses that it may bind.

Facts this file relies on:

* libzmq unlinks any file at an ipc path before it binds (``ipc_listener.cpp``), so it would silently replace
  the socket of a running broker. Hence the lock, and the check of the socket, before that.
* ``flock`` ends with the process that holds it, however it ends (flock(2)). The lock file itself stays:
  unlinking it would let two processes hold "the" lock on two inodes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import ipaddress
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from reqpool_contract import socket_owner
from reqpool_contract.masking import without_password
from reqpool_contract.peer_credentials import PeerCredentials
from reqpool_contract.socket_path import MAX_SOCKET_PATH_BYTES

from .cluster_spans import STOP_ENDS_S

SOCKET_NAME = "reqpool.sock"
LOCK_START = '{"pid": '
"""How the lock file of a killed cluster begins; that of a cluster that ended in order is empty."""
SUFFIXES = ("", ".results", ".workers")
"""What the broker appends to the intake's path to name its sockets; :func:`further_paths` finds more."""
MAX_PORT = 65535 - 2
"""The highest port for the intake: the broker also uses the two ports above it."""
MAX_WORKERS = 256
LOOK_S = 0.1
"""How long taking a lock is retried: :func:`is_held` also takes it for an instant, and a ``status`` must not
keep a cluster from starting. If its holder is stopping, it is :data:`.cluster_spans.STOP_ENDS_S`."""


class CannotStart(Exception):
    """The cluster cannot be started; the text says why, and what would be right."""


# --- the folder ------------------------------------------------------------------------------------


def folder_path() -> Path:
    """Return this user's runtime folder: ``$XDG_RUNTIME_DIR/reqpool``, or ``/tmp/reqpool-<uid>``.

    Nothing is created. A variable that does not name a folder (after ``su``, say) counts as unset.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.path.isdir(base):
        return Path(base) / "reqpool"
    return Path(f"/tmp/reqpool-{os.getuid()}")


def default_url() -> str:
    """Return the intake URL of this user's cluster unless another is given."""
    return f"ipc://{folder_path() / SOCKET_NAME}"


def make_folder(folder: Path) -> None:
    """Create `folder` with mode 0700, or check that it belongs to this user and is closed to others.

    Raises:
        CannotStart: if it belongs to another user, others may enter it, or it is not a folder.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"cannot make the runtime folder {folder}: {error.strerror}") from error
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Check that `folder` belongs to this user, is closed to others, and is not a link.

    Raises:
        CannotStart: if one of these is not so.
    """
    try:
        socket_owner.check_folder(folder, socket_owner.ALL)
    except OSError as error:
        raise CannotStart(f"{error.strerror}, or use another (XDG_RUNTIME_DIR, --bind)") from error


# --- addresses -------------------------------------------------------------------------------------


def check_bind(url: str) -> str:
    """Check an intake URL that is to be bound and return it in its plain form.

    Raises:
        CannotStart: if it is not an ipc or tcp URL, the path is too long, its folder belongs to another user
            or is open to others, there are no two ports above it, or it reaches beyond loopback.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "ipc" and separator and rest:
        if rest.startswith("@"):
            raise CannotStart(
                f"{without_password(url)}: abstract sockets are open to every user; give a path"
            )
        plain = f"ipc://{os.path.abspath(rest)}"
        longest = max(socket_paths(plain), key=lambda path: len(os.fsencode(path)))
        length = len(os.fsencode(longest))
        if length > MAX_SOCKET_PATH_BYTES:
            raise CannotStart(
                f"{longest} is {length} bytes long; a socket path can have at most {MAX_SOCKET_PATH_BYTES}: "
                "bind a shorter path"
            )
        # The path may contain a link, as /var/run is; what counts is who can enter the folder it leads to.
        check_folder(longest.parent.resolve())
        return plain
    if scheme == "tcp" and separator:
        host, port = split_tcp(url)
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    raise CannotStart(
        f"{without_password(url)!r} is not an address to bind; give tcp://127.0.0.1:PORT or ipc:///PATH"
    )


def split_tcp(url: str) -> tuple[str, int]:
    """Return host and port of a tcp URL on this machine; port 0 means any free port.

    Raises:
        CannotStart: if it reaches beyond this machine, or is malformed.
    """
    shown = without_password(url)
    host, separator, port = url.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        host = "127.0.0.1"
    if (
        not separator
        or not host
        or not (port == "*" or port.isdecimal())
        or (port != "*" and int(port) > 65535)
    ):
        raise CannotStart(f"{shown!r} is not an address to bind; give tcp://127.0.0.1:PORT")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise CannotStart(
            f"{shown} reaches beyond this machine, and there is no authentication yet: "
            "anyone who can reach the port could use the pool. Bind tcp://127.0.0.1:PORT or ipc:///PATH"
        )
    number = 0 if port == "*" else int(port)
    if number > MAX_PORT:
        raise CannotStart(f"{shown}: the broker also uses the two ports above it; give {MAX_PORT} at most")
    return host, number


def ipc_path(url: str) -> Path | None:
    """Return the path of an ipc URL, None for others."""
    return Path(url.removeprefix("ipc://")) if url.startswith("ipc://") else None


def socket_paths(url: str) -> list[Path]:
    """Return the paths of the first three sockets of the cluster whose intake is `url`; none for tcp."""
    path = ipc_path(url)
    return [] if path is None else [path.with_name(path.name + suffix) for suffix in SUFFIXES]


def further_paths(url: str) -> list[Path]:
    """Return the paths of further results sockets of a broker whose intake is `url`."""
    path = ipc_path(url)
    if path is None:
        return []
    found = path.parent.glob(f"{glob.escape(path.name)}.res[0-9]*")
    return [each for each in found if each.name.removeprefix(f"{path.name}.res").isdecimal()]


def remove_sockets(url: str) -> None:
    """Remove the socket files of the cluster whose intake is `url`; other files are left alone."""
    # The broker skips further paths at which a process listens, or that are not sockets, so they stay.
    left = [path for path in further_paths(url) if is_left_over(path)]
    for path in (*socket_paths(url), *left):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()


def is_left_over(path: Path) -> bool:
    """Return whether the path is a socket at which no process listens."""
    try:
        return listening_pid(path) is None
    except CannotStart:
        return False


def check_free(url: str, wait_s: float = 0.0) -> None:
    """Check that no process listens at the three addresses of `url`, and remove sockets of dead clusters.

    Nothing is removed before all three have been checked.

    Args:
        url: as :func:`check_bind` returned it.
        wait_s: how long to wait for a listener to end.

    Raises:
        CannotStart: if a process listens, or one of the paths is not a socket.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            _check_free(url)
            return
        except CannotStart:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.02)


def _check_free(url: str) -> None:
    if ipc_path(url) is None:
        check_ports(url)
        return
    for path in socket_paths(url):
        listener = listening_pid(path)
        if listener is not None:
            raise CannotStart(f"already running at ipc://{path} (pid {listener})")
    remove_sockets(url)


def check_ports(url: str) -> None:
    """Check that the port of a tcp URL and the two above it are free.

    Raises:
        CannotStart: if one is not.
    """
    host, first = split_tcp(url)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, first + len(SUFFIXES)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as libzmq does
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise CannotStart(f"{url}: port {port} is in use by another program") from error
                raise CannotStart(f"{url}: port {port}: {error.strerror}") from error


def listening_pid(path: Path) -> int | None:
    """Return the pid of the process that listens on a Unix socket, None if there is none.

    Raises:
        CannotStart: if `path` is not a socket, or may not be connected to.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise CannotStart(f"{path} exists and is not a socket; remove it or bind elsewhere")
            probe.setblocking(False)
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except BlockingIOError:  # its backlog is full, so there is a listener
            return 0
        except OSError as error:
            raise CannotStart(f"{path}: {error.strerror}") from error
        return PeerCredentials.of(probe).pid


def workers_url(url: str) -> str | None:
    """Return where the broker will listen for workers; None if it will choose a free port."""
    path = ipc_path(url)
    if path is not None:
        return f"ipc://{socket_paths(url)[2]}"
    host, port = split_tcp(url)
    shown = f"[{host}]" if ":" in host else host
    return f"tcp://{shown}:{port + 2}" if port else None


# --- the lock --------------------------------------------------------------------------------------


def lock_path(url: str) -> Path:
    """Return the lock file of the cluster whose intake is `url`; for tcp it is in the runtime folder."""
    path = ipc_path(url)
    if path is not None:
        return path.with_name(path.name + ".lock")
    return folder_path() / (url.replace("://", "-").replace(":", "-") + ".lock")


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file `path`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_lock(url: str) -> dict[str, Any] | None:
    """Return what the supervisor of a running cluster on this machine wrote into its lock.

    Returns:
        ``pid`` of the supervisor, the number of ``workers`` it runs, and what else it has noted; None if no
        supervisor of this user holds the lock.
    """
    path = lock_path(url)
    try:
        if not is_held(path):
            return None
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


class Lock:
    """Held by the supervisor of one URL for as long as its process lives.

    Args:
        url: the intake, as :func:`check_bind` returned it.
        pid: the supervisor's, for :func:`read_lock`.
        workers: how many it runs, likewise.

    Attributes:
        after_kill: whether its last holder did not release it in order: its children may be about to end.

    Raises:
        CannotStart: if another supervisor holds it and does not end in time, or the file is not a lock file.
    """

    def __init__(self, url: str, pid: int, workers: int) -> None:
        path = lock_path(url)
        try:
            if ipc_path(url) is None:
                make_folder(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise CannotStart(f"cannot write {path}: {error.strerror}") from error
        self._file = os.fdopen(fd, "r+", errors="replace")
        began_s, span_s = time.monotonic(), LOOK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                holder = read_lock(url) or {}
                if holder.get("stopping"):
                    span_s = STOP_ENDS_S
                if time.monotonic() - began_s > span_s:
                    self._file.close()
                    doing = "still stopping" if holder.get("stopping") else "already running"
                    pid = holder.get("pid", "unknown")
                    raise CannotStart(f"{doing} at {url} (pid {pid})") from error
                time.sleep(0.02)
        found = self._file.read(len(LOCK_START))
        self.after_kill = found == LOCK_START
        if found and not self.after_kill:
            self._file.close()  # a file that is not a lock file must not be emptied
            raise CannotStart(f"{path} exists and is not a lock file; remove it or bind elsewhere")
        self._written_bytes = os.fstat(fd).st_size
        self._about: dict[str, int | str] = {"pid": pid}
        self.note(workers=workers)

    def note(self, **figures: int | str) -> None:
        """Write what has changed. A process that reads it meanwhile gets the old text or the new one.

        Args:
            figures: ``workers``: how many the cluster should have; ``stopping``: it is about to end; those of
                a restart, see :mod:`reqpool_ops.restart`.
        """
        self._about |= figures
        text = json.dumps(self._about).encode()
        # One write over the whole old text: the file is never empty, and nothing of an older text remains.
        self._written_bytes = max(self._written_bytes, len(text))
        os.pwrite(self._file.fileno(), text.ljust(self._written_bytes), 0)

    def close(self) -> None:
        """Release it; the file stays, empty."""
        self._file.truncate(0)
        self._file.close()

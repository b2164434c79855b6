"""The private broker and workers of a ``Pool()`` that was given no URL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec

from . import address
from .errors import UsageError

STOP_SECONDS = 5.0
"""How long the cluster may take to end before it is killed."""


class Embedded:
    """A child process ``python -m reqpool_ops up --embedded`` and its folder.

    It watches this process by pidfd and goes when this process goes, however it goes.

    Attributes:
        url: where its broker listens, or will.
    """

    def __init__(self, workers: int, config: str | None = None) -> None:
        """Start it; its broker listens some tenths of a second later.

        Args:
            workers: number of worker processes, from 1.
            config: path of its ``reqpool.toml``.

        Raises:
            UsageError: if the ``[server]`` extra is not installed, or the folder for temporary files lies
                too deep for a socket's path.
        """
        missing = [name for name in ("reqpool_ops", "psutil") if find_spec(name) is None]
        if missing:
            raise UsageError(
                f"an embedded pool needs {' and '.join(missing)}: pip install 'reqpool[server]', "
                "or give the URL of a running pool: Pool(url) or $REQPOOL_URL"
            )
        self._owner_pid = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="reqpool-")  # 0700
        self._lock = threading.Lock()
        self.url = f"ipc://{self._folder}/intake"
        try:
            address.check(self.url)
        except UsageError as error:
            os.rmdir(self._folder)
            raise UsageError(f"no socket can be made in TMPDIR: {error.text}") from error
        command = [sys.executable, "-m", "reqpool_ops", "up", "--embedded", "--bind", self.url]
        command += ["--workers", str(workers), "--parent-pid", str(self._owner_pid)]
        if config is not None:
            command += ["--config", config]
        try:
            # A session of its own: Ctrl-C reaches the app alone, which closes the pool in its own time.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def exit_text(self) -> str | None:
        """Return how the cluster ended by itself, or None while it runs.

        A process forked from the owner cannot know, and gets None.
        """
        if os.getpid() != self._owner_pid:
            return None
        status = self._process.poll()
        if status is None:
            return None
        if status < 0:
            return f"the embedded cluster was ended by {signal.Signals(-status).name}"
        return f"the embedded cluster ended with exit status {status}"

    def stop(self) -> None:
        """End the cluster and remove its folder; nothing in a process forked from the owner."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)

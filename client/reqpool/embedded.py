"""The private cluster of a pool without a URL."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec

from reqpool_contract import broker_url
from reqpool_contract.backoff import backoff_s
from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import UsageError

STOP_S = 5.0
"""The cluster is killed if it takes longer to end."""
QUICK_S = 5.0
"""A cluster that ends within this time after its start has failed quickly."""
MOST_FAILURES = 5
"""Consecutive quick failures after which the cluster is not started again."""
FIRST_DELAY_S = 0.05
"""Delay before the cluster is started again; doubled by each consecutive quick failure."""
LONGEST_DELAY_S = 1.6

log = logging.getLogger("reqpool")


class Embedded:
    """A child process ``python -m reqpool_ops up --embedded`` and its folder.

    The child watches this process by pidfd and ends when this process ends, for whatever reason. If the child
    ends first (killed for lack of memory, say), another is started at the same URL.

    Attributes:
        url: where its broker listens, or will listen.
    """

    def __init__(self, workers: int, config: str | None = None) -> None:
        """Start the cluster; its broker listens a few tenths of a second later.

        Args:
            workers: number of worker processes, at least 1.
            config: path of its ``reqpool.toml``.

        Raises:
            UsageError: the ``[server]`` extra is not installed, or the path of the folder for temporary
                files is too long for a socket.
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
        self._stopping = threading.Event()
        self._exit_text: str | None = None
        self.url = f"ipc://{self._folder}/intake"
        try:
            broker_url.check(self.url)
        except UsageError as error:
            os.rmdir(self._folder)
            raise UsageError(f"cannot create a socket in TMPDIR: {error.text}") from error
        self._command = [sys.executable, "-m", "reqpool_ops", "up", "--embedded", "--bind", self.url]
        self._command += ["--workers", str(workers), "--parent-pid", str(self._owner_pid)]
        if config is not None:
            self._command += ["--config", config]
        try:
            self._process = self._launch()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._watch = threading.Thread(target=self._keep, name="reqpool-embedded", daemon=True)
        self._watch.start()

    def _launch(self) -> subprocess.Popen[bytes]:
        # A cluster that stopped in order has removed it. The supervisor checks who owns the folder.
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        # In a new process session, so that Ctrl-C reaches only the app, which then closes the pool.
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _keep(self) -> None:
        """Restart the cluster when it ends, until it fails too often or is stopped."""
        first, failures = True, 0
        while True:
            started_s = time.monotonic()
            status = self._process.wait()
            text = _ended(status)
            failures = failures + 1 if time.monotonic() - started_s < QUICK_S else 0
            # If the first one exits at once, it has reported why (its configuration is wrong, say), and the
            # next would only report the same.
            if first and failures and status > 0:
                failures = MOST_FAILURES + 1
            first = False
            while failures <= MOST_FAILURES:
                if self._stopping.wait(backoff_s(failures, FIRST_DELAY_S, LONGEST_DELAY_S)):
                    return
                try:
                    started = self._start_again()
                except OSError as error:
                    text = f"the embedded cluster cannot be started again: {error.strerror}"
                    # A shortage of this process may pass.
                    failures += error.errno not in SHORTAGES or failures < MOST_FAILURES
                    continue
                if not started:
                    return
                log.warning("%s; another has been started", text)
                break
            else:
                self._exit_text = text
                return

    def _start_again(self) -> bool:
        with self._lock:
            if not self._stopping.is_set():
                self._process = self._launch()
            return not self._stopping.is_set()

    def exit_text(self) -> str | None:
        """Return how the cluster ended; None while it runs or is about to be restarted.

        None as well in a process forked from the owner, which cannot know.
        """
        return self._exit_text if os.getpid() == self._owner_pid else None

    def stop(self) -> None:
        """End the cluster and remove its folder. Does nothing in a process forked from the owner."""
        if os.getpid() != self._owner_pid:
            return
        self._stopping.set()
        with self._lock:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
        self._watch.join(STOP_S)


def _ended(status: int) -> str:
    if status < 0:
        # Signals over SIGRTMIN have no names.
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"the embedded cluster was killed by {name}"
    return f"the embedded cluster ended with exit status {status}"

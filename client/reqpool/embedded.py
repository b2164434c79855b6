"""The private broker and workers of a ``Pool()`` that was given no URL."""

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
"""How long the cluster may take to end before it is killed."""
QUICK_S = 5.0
"""A cluster that ended sooner than this after its start failed quickly."""
MOST_FAILURES = 5
"""Quick failures in a row after which it is not started again."""
FIRST_DELAY_S = 0.05
"""How long after its end it is started again; twice as long for each quick failure in a row."""
LONGEST_DELAY_S = 1.6

log = logging.getLogger("reqpool")


class Embedded:
    """A child process ``python -m reqpool_ops up --embedded`` and its folder.

    It watches this process by pidfd and goes when this process goes, however it goes. If it ends by itself
    (killed for want of memory, say), another is started in its place, at the same URL.

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
        # One that ended in order has removed it. Whoever may have made it meanwhile: the supervisor checks.
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        # A session of its own: Ctrl-C reaches the app alone, which closes the pool in its own time.
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _keep(self) -> None:
        """Start it again whenever it ends, until it fails again and again, or is not wanted any more."""
        first, failures = True, 0
        while True:
            started_s = time.monotonic()
            status = self._process.wait()
            text = _ended(status)
            failures = failures + 1 if time.monotonic() - started_s < QUICK_S else 0
            # One that exits in its first life has said what is wrong, with its configuration perhaps, and
            # would only say it again.
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
                    # What this process is short of now it may have later.
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
        """Return how the cluster ended, or None while it runs or is about to run again.

        A process forked from the owner cannot know, and gets None.
        """
        return self._exit_text if os.getpid() == self._owner_pid else None

    def stop(self) -> None:
        """End the cluster and remove its folder; nothing in a process forked from the owner."""
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
        # Those over SIGRTMIN have no names.
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"the embedded cluster was killed by {name}"
    return f"the embedded cluster ended with exit status {status}"

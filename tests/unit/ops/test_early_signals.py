"""What reaches a supervisor that is starting waits until it can be taken."""

import os
import signal
import subprocess
import sys

import pytest

SENT = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN]

STARTING = """
import os, signal, sys
class Told:  # the first import of the command line's own
    def find_spec(self, name, path=None, target=None):
        if name == "reqpool_ops.cli":
            os.kill(os.getpid(), int(sys.argv.pop()))
            print("lives", flush=True)
            os._exit(0)
sys.meta_path.insert(0, Told())
import runpy
runpy.run_module("reqpool_ops", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number", SENT)
def test_a_signal_that_comes_while_a_supervisor_imports_does_not_end_it(number: int) -> None:
    command = [sys.executable, "-P", "-c", STARTING, "up", str(int(number))]
    ran = subprocess.run(command, capture_output=True, timeout=20, text=True)
    assert (ran.returncode, ran.stdout) == (0, "lives\n"), ran.stderr


CLAIMING = """
import os, signal, subprocess, sys
from reqpool_ops import runtime
from reqpool_ops.supervisor import ClusterPlan, Supervisor
class Started(Exception): pass
def check_free(*_):  # the lock is there, and whoever reads it may send a signal
    os.kill(os.getpid(), int(sys.argv[1]))
def turn(_):
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), [supervisor._signals.take()])
    raise Started
runtime.check_free = check_free
Supervisor._turn = turn
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as its parent may have had it
supervisor = Supervisor(ClusterPlan("ipc://" + sys.argv[2] + "/s", 1, broker=["-c", ""]))
try:
    supervisor.run()
except Started:
    pass
"""


@pytest.mark.parametrize("number", SENT)
def test_a_signal_that_comes_once_the_lock_names_a_supervisor_is_taken_by_it(
    number: int, tmp_path: os.PathLike[str]
) -> None:
    command = [sys.executable, "-P", "-c", CLAIMING, str(int(number)), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, timeout=20, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"set() [{int(number)}]\n"), ran.stderr

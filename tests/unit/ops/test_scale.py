"""Telling a supervisor what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from reqpool_ops import restart, scale
from reqpool_ops.runtime import CannotStart


@pytest.mark.parametrize(
    "ask", [lambda: restart.restart("ipc:///nowhere"), lambda: scale.scale("ipc:///nowhere", 2)]
)
def test_a_supervisor_that_ends_before_it_is_told_is_said_to_have_ended(
    ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    about = {"pid": gone.pid, "workers": 1, "restarts_asked": 0}
    for module in (restart, scale):
        monkeypatch.setattr(module, "supervisor", lambda url: about)
    with pytest.raises(CannotStart, match=rf"the supervisor \(pid {gone.pid}\) has just ended"):
        ask()

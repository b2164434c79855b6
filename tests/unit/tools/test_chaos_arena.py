"""Whom the fault runs let the product's tools talk to: a supervisor that can hear them."""

from __future__ import annotations

import subprocess
from typing import Any
from unittest.mock import Mock

import pytest

from chaos.arena import Arena, NoTarget
from reqpool_ops import runtime


@pytest.mark.parametrize("lock", [None, {}, {"pid": 4712}], ids=["no lock", "empty", "its predecessor's"])
def test_a_supervisor_that_is_starting_is_no_listener(
    monkeypatch: pytest.MonkeyPatch, lock: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(runtime, "read_lock", lambda url: lock)
    with pytest.raises(NoTarget, match="starting"):
        arena().listener()


def test_a_supervisor_whose_lock_names_it_is_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "read_lock", lambda url: {"pid": 4711})
    assert arena().listener().pid == 4711


def test_a_supervisor_that_is_on_its_way_out_is_no_listener() -> None:
    leaving = arena()
    leaving.changing = True
    with pytest.raises(NoTarget, match="no supervisor"):
        leaving.listener()


def arena() -> Arena:
    """One with a supervisor that lives, and nothing else."""
    made = Arena.__new__(Arena)
    made.changing = False
    made._url = "ipc:///nowhere"
    made.cluster = Mock(supervisor=Mock(subprocess.Popen, pid=4711, poll=lambda: None))
    return made

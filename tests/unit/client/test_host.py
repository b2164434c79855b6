"""What a process keeps of its stubs."""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.util

import pytest

from reqpool import host


class Stub:
    """Counts how often it is shut down."""

    def __init__(self) -> None:
        self.ends = 0

    def abandon(self) -> None:
        raise AssertionError("nothing was forked")

    def shut_down(self, timeout_s: float) -> None:
        self.ends += 1
        host.stopped(self)


def test_a_child_of_multiprocessing_notes_once_that_its_stubs_are_to_be_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: dict[object, multiprocessing.util.Finalize] = {}
    monkeypatch.setattr(host, "_host", host._Host())
    monkeypatch.setattr(multiprocessing.util, "_finalizer_registry", noted)
    monkeypatch.setattr(multiprocessing.process, "parent_process", object)
    stubs = [Stub() for _ in range(3)]
    for stub in stubs:
        host.started(stub)
    assert len(noted) == 1
    host._at_exit()
    assert [stub.ends for stub in stubs] == [1, 1, 1]

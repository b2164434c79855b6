"""What is certainly wrong with the place that a broker's URL names."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from reqpool import url_check
from support.wait import wait_until


def resolves(monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> list[bytes]:
    asked: list[bytes] = []

    def getaddrinfo(host: bytes, port: None, **options: int) -> list[object]:
        asked.append(host)
        if error is not None:
            raise error
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
def test_a_name_that_no_host_has_is_a_fault(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked = resolves(monkeypatch, socket.gaierror(code, "no such name"))
    assert url_check.fault("tcp://cluster:5570") == "no such host: 'cluster'"
    assert asked == [b"cluster"]


def test_a_name_server_that_does_not_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves(monkeypatch, socket.gaierror(socket.EAI_AGAIN, "try again"))
    assert url_check.fault("tcp://cluster:5570") is None
    resolves(monkeypatch, OSError(24, "too many open files"))
    assert url_check.fault("tcp://cluster:5570") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_an_address_is_right_whether_or_not_somebody_is_there(host: str) -> None:
    assert url_check.fault(f"tcp://{host}:1") is None


def test_a_socket_that_does_not_exist_yet_may_come(tmp_path: Path) -> None:
    assert url_check.fault(f"ipc://{tmp_path}/intake") is None
    assert url_check.fault(f"ipc://{tmp_path}/not/yet/intake") is None
    assert url_check.fault("ipc://@abstract") is None


def test_a_socket_that_is_there_is_right(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "intake"))
        assert url_check.fault(f"ipc://{tmp_path}/intake") is None


def test_what_is_in_the_way_of_a_socket_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert url_check.fault(f"ipc://{tmp_path}/file") == "the file at this path is not a socket"
    assert url_check.fault(f"ipc://{tmp_path}") == "the file at this path is not a socket"
    assert "Not a directory" in str(url_check.fault(f"ipc://{tmp_path}/file/intake"))


def test_a_folder_that_lets_us_not_in_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")  # root, as tests may run, is never denied

    monkeypatch.setattr(os, "stat", stat)
    assert "Permission denied" in str(url_check.fault(f"ipc://{tmp_path}/intake"))


def test_nothing_is_looked_at_before_a_broker_had_its_time_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = threading.Semaphore(0)
    asked = resolves(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no such name"))
    place = url_check.Lookup("tcp://cluster:1", told.release)
    place.turn(10.0)
    assert place.due_s == 10.0 + url_check.FIRST_S
    assert asked == []
    place.turn(place.due_s)
    assert told.acquire(timeout=5)
    assert place.fault == "no such host: 'cluster'"
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "reqpool-lookup"], 5)
    resolves(monkeypatch, None)
    place.turn(10.0 + url_check.FIRST_S + url_check.AGAIN_S)
    assert told.acquire(timeout=5)
    assert place.fault is None

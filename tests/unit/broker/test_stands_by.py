"""A broker that waits for its supervisor's line."""

from __future__ import annotations

import io
import json
import subprocess

import pytest

from reqpool_broker import process, server
from reqpool_broker.__main__ import main


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a broker does that is started, and told nothing."""
    done: list[str] = []

    class Input(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            done.append("waits")
            return ""  # then the supervisor has died

    monkeypatch.setattr(process, "prepare_process", lambda: done.append("collects garbage"))
    monkeypatch.setattr("reqpool_broker.__main__.raise_file_limit", lambda: None)
    monkeypatch.setattr("sys.stdin", Input())
    return done


def start(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["reqpool_broker", "--bind", "ipc:///nowhere", "--supervised", *options])
    assert main() == 0


def test_one_that_stands_by_does_all_that_takes_time_before_it_waits(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch)
    assert done == ["collects garbage", "waits"]


def test_one_whose_supervisor_has_died_ends_in_silence(
    done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.StringIO(" ")
    )  # the blank that tells how far it has come, and no line
    start(monkeypatch)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dies", ["before the start", "after the line"])
def test_one_whose_supervisor_has_died_takes_nobodys_address(
    done: list[str], monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    supervisor = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    if dies == "before the start":
        supervisor.communicate()

    def reads() -> str:
        supervisor.communicate()
        return json.dumps({"reign": "00" * 8, "deaths": 0, "workers": []})

    monkeypatch.setattr("sys.stdin.readline", reads)
    monkeypatch.setattr(server, "BrokerServer", lambda *_: pytest.fail("it binds"))
    start(monkeypatch, "--parent-pid", str(supervisor.pid))

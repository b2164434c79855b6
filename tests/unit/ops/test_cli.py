"""The command line: usage, exit statuses, errors in one line."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from reqpool_ops import cli, report_values, runtime
from reqpool_ops.requests import raw


@pytest.fixture(autouse=True)
def _no_cluster_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.delenv("REQPOOL_CONFIG", raising=False)


@pytest.fixture
def nobody() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{free.getsockname()[1]}"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", *arguments], capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("nonsense",), ("up", "--workers", "0"), ("up", "--workers", "x"), ("up", "--workers", "257"),
        ("up", "--embedded"), ("up", "--parent-pid", "1"), ("up", "--check"), ("scale",), ("scale", "0"),
        ("dns",), ("udp", "127.0.0.1:5"),
        ("tcp", "127.0.0.1:5", "x", "--until", "y", "--length", "3"),
    ],
)  # fmt: skip
def test_wrong_usage_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: reqpool" in capsys.readouterr().err


def test_a_configuration_is_checked_without_starting_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reqpool.toml"
    path.write_text('[upstreams.names]\nurl = "dns://127.0.0.1:53"\n')
    assert cli.main(["up", "--config", str(path), "--check"]) == 0
    assert capsys.readouterr().out == f"{path}: 1 upstream\n"
    monkeypatch.setenv("REQPOOL_CONFIG", str(path))
    assert cli.main(["up", "--check"]) == 0


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_a_wrong_configuration_is_1_and_starts_nothing(
    check: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reqpool.toml"
    path.write_text("[upstreams.names]\nurl = 5\nretries = -1\n")
    assert cli.main(["up", "--config", str(path), *check]) == 1
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == (
        "",
        [
            f"{path}:2: upstreams.names.url: must be a quoted string",
            f"{path}:3: upstreams.names.retries: -1 is not a whole number from 0 to 10",
        ],
    )
    assert not (tmp_path / "reqpool").exists()


def test_what_is_not_there_cannot_be_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scale", "2", "--url", f"ipc://{tmp_path}/x"]) == 1
    assert capsys.readouterr().err == (
        f"reqpool: no cluster of yours is running on this machine at ipc://{tmp_path}/x\n"
    )


def test_status_without_a_broker_is_3(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", nobody]) == 3
    assert capsys.readouterr().err == f"reqpool: no broker answers at {nobody}\n"


def test_status_looks_where_the_environment_says(
    nobody: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQPOOL_URL", nobody)
    assert cli.main(["status"]) == 3
    assert nobody in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("dns", "a" * 64 + ".example"),
        ("dns", "example.com", "NONSENSE", "--server", "127.0.0.1:5300"),
        ("dns", "example.com", "--server", "127.0.0.1:x"),
        ("udp", "127.0.0.1:5", r"\x0"),
        ("tcp", "127.0.0.1:99999", "x"),
        ("tcp", "127.0.0.1:5", "x", "--length", "0"),
        ("udp", "127.0.0.1:5", "x", "--timeout", "-1"),
    ],
)
def test_a_bad_request_is_one_line_and_1(arguments: tuple[str, ...], nobody: str) -> None:
    done = run(*arguments, "--url", nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("reqpool: ")
    assert done.stderr.count("\n") == 1


def test_a_dead_url_is_said_while_it_is_waited_for_and_in_the_end(nobody: str) -> None:
    done = run("udp", "127.0.0.1:5555", "hello", "--url", nobody, "--timeout", "2.5")
    assert done.returncode == 1
    warning, error = done.stderr.splitlines()
    text = f"no broker answers at {nobody}"
    assert warning.startswith(f"reqpool: requests wait until their timeouts (1): {text}")
    assert error.startswith("reqpool: ")
    assert text in error


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("hello", b"hello"), (r"a\n", b"a\n"), (r"\x00\xff", b"\x00\xff"), (r"\\n", b"\\n"),
        ("né", "né".encode()), ("€", "€".encode()), ("", b""), (r"ü\xff", "ü".encode() + b"\xff"),
        (r"€\xffé\n", "€".encode() + b"\xff" + "é\n".encode()), (r"\t\r\0\\x00", b"\t\r\0\\x00"),
        ("\udcff", b"\xff"),  # a byte that is no UTF-8, as the shell passed it
    ],
)  # fmt: skip
def test_escapes_stand_for_bytes(text: str, data: bytes) -> None:
    assert raw.unescape(text) == data


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        ("\\", "\\"), (r"a\x0", r"\x"), (r"\xg0", r"\x"), (r"\777", r"\777"), (r"\q", r"\q"),
        (r"\u20ac", r"\u"), (r"\00", r"\00"), (r"\012x", r"\012"), ("a\\\n", r"\\n"), ("\\é", r"\é"),
    ],
)  # fmt: skip
def test_bad_escapes_are_refused(text: str, escape: str) -> None:
    with pytest.raises(reqpool.UsageError) as error:
        raw.unescape(text)
    assert (
        error.value.text
        == f"{report_values.text(text)}: {escape} is not an escape; use one of {raw.ESCAPES_TEXT}"
    )


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"reqpool {importlib.metadata.version('reqpool')}\n"


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5570", "nonsense"])
def test_up_refuses_a_bad_bind_in_one_line(bind: str) -> None:
    done = run("up", "--bind", bind)
    assert done.returncode == 1
    assert done.stderr.startswith("reqpool: ")
    assert done.stderr.count("\n") == 1


def test_up_refuses_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        done = run("up", "--bind", url)
    assert (done.returncode, done.stderr) == (
        1,
        f"reqpool: {url}: port {url.rpartition(':')[2]} is in use by another program\n",
    )


def test_up_refuses_a_folder_open_to_others(tmp_path: Path) -> None:
    runtime.folder_path().mkdir()
    runtime.folder_path().chmod(0o755)
    done = run("up")
    assert done.returncode == 1
    assert "chmod 700" in done.stderr


def test_a_missing_server_extra_is_said(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise ModuleNotFoundError('no psutil', name='psutil')")
    done = subprocess.run(
        [sys.executable, "-m", "reqpool_ops", "status"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr == "reqpool: psutil is missing: pip install 'reqpool[server]'\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    program = f"{sys.executable} -m reqpool_ops --help | true"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert "Traceback" not in done.stderr

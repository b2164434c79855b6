"""``reqpool.toml``: what no request could carry is refused by its check, with file, size and limit."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from reqpool.kinds import find
from reqpool_contract import wire
from reqpool_ops import config_file
from reqpool_ops.config_file import ConfigError
from support import certificates

REDIS = '[upstreams.a]\nurl = "rediss://h"\n'


def problems(text: str, folder: Path, **environ: str) -> list[str]:
    """What is wrong with a file, a line for each, without its path."""
    try:
        config_file.read(text, str(folder / "reqpool.toml"), environ)
    except ConfigError as error:
        return [line.removeprefix(f"{folder}/reqpool.toml:") for line in str(error).split("\n")]
    return []


@pytest.mark.parametrize("size", [70_000, 219_597, 1_000_000])
def test_authorities_of_all_the_world_are_taken(size: int, tmp_path: Path) -> None:
    certificates.bundle(tmp_path / "ca.pem", size)
    assert problems(f'{REDIS}tls.ca = "ca.pem"', tmp_path) == []


def test_tls_files_that_could_not_travel_are_named_with_their_size(tmp_path: Path) -> None:
    certificates.bundle(tmp_path / "large.pem", wire.MAX_SETTINGS_BYTES + 1)
    (problem,) = problems(f'{REDIS}[upstreams.a.tls]\nca = "large.pem"', tmp_path)
    assert problem.startswith("4: upstreams.a.tls.ca: ")
    assert f"'{tmp_path}/large.pem' has 1048577 bytes; at most 1048576 are allowed" in problem


def test_tls_files_and_password_are_counted_together(tmp_path: Path) -> None:
    certificates.bundle(tmp_path / "ca.pem", wire.MAX_SETTINGS_BYTES)
    (problem,) = problems(f'{REDIS}tls.ca = "ca.pem"\npassword_env = "P"', tmp_path, P="p" * 1_000)
    assert "password, tls of an upstream have 104" in problem
    assert "bytes together; at most 1048576 are allowed" in problem


@pytest.mark.parametrize(("more", "wrong"), [(0, False), (1, True)])
def test_password_over_the_bound_by_one_is_refused(more: int, wrong: bool, tmp_path: Path) -> None:
    overhead = len(msgpack.packb({"password": "p" * 65_536})) - 65_536
    secret = "p" * (wire.MAX_SETTINGS_BYTES - overhead + more)
    found = problems('[upstreams.a]\nurl = "redis://h"\npassword_env = "P"', tmp_path, P=secret)
    assert bool(found) is wrong
    for problem in found:
        assert "password of an upstream have 1048577 bytes together; at most 1048576" in problem
        assert "ppp" not in problem


def test_password_that_is_no_unicode_is_said_and_not_shown(tmp_path: Path) -> None:
    (problem,) = problems(f'{REDIS}password_env = "P"', tmp_path, P="hunter2\udcff")
    assert "password cannot be sent: it is not UTF-8" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(("more", "wrong"), [(0, False), (1, True)])
def test_origin_over_the_bound_by_one_is_refused(more: int, wrong: bool, tmp_path: Path) -> None:
    taken = len(find("mysql").endpoint("mysql://app@h/d", password="p").origin)
    url = f"mysql://app@h/{'d' * (wire.MAX_ORIGIN_CHARS - taken + 1 + more)}"
    found = problems(f'[upstreams.a]\nurl = "{url}"\npassword_env = "P"', tmp_path, P="p")
    assert bool(found) is wrong
    for problem in found:
        assert problem.startswith("2: upstreams.a.url: ")
        assert "1025 characters; at most 1024" in problem


@pytest.mark.parametrize(
    ("key", "most", "over"),
    [
        ("max_connections", "1_000_000", "1_000_001"),
        ("max_response_bytes", f"{wire.MAX_ANSWER_BYTES}", f"{wire.MAX_ANSWER_BYTES + 1}"),
        ("max_connections", "1", "0"),
        ("max_response_bytes", "1", "0"),
        ("retries", "10", "11"),
        ("connect_timeout_s", "2_592_000", "2_592_001"),
        ("read_timeout_s", "0.001", "0.0009"),
        ("lifetime_s", "2_592_000", f"{2**70}"),
    ],
)
def test_limit_over_its_bound_by_one_is_refused(key: str, most: str, over: str, tmp_path: Path) -> None:
    assert problems(f"{REDIS}{key} = {most}", tmp_path) == []
    (problem,) = problems(f"{REDIS}{key} = {over}", tmp_path)
    assert problem.startswith(f"3: upstreams.a.{key}: ")

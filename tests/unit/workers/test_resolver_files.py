"""What the resolver reads: resolv.conf and the hosts file, and what changes while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reqpool_contract.watched_file import CHECK_INTERVAL_S, WatchedFile
from reqpool_workers import hosts, resolv_conf
from reqpool_workers.resolv_conf import ResolvConf

# --- hosts ----------------------------------------------------------------------------------------


def test_names_of_the_hosts_file() -> None:
    found = hosts.parse(
        "127.0.0.1 localhost\n"
        "::1\tlocalhost ip6-localhost  # a comment\n"
        "# 192.0.2.9 commented\n"
        "192.0.2.1 Db.Internal. db\n"
        "192.0.2.2 db\n"
        "192.0.2.1 db\n"
    )
    assert found == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6-localhost": ("::1",),
        "db.internal": ("192.0.2.1",),
        "db": ("192.0.2.1", "192.0.2.2"),
    }


@pytest.mark.parametrize(
    "text", ["", "\n\n", "#", "no address here", "192.0.2.1", "300.0.2.1 db", "\x00\xff \x00"]
)
def test_lines_of_the_hosts_file_that_make_no_sense_are_skipped(text: str) -> None:
    assert hosts.parse(text) == {}


# --- resolv.conf ----------------------------------------------------------------------------------


def test_the_defaults_of_resolv_conf() -> None:
    assert resolv_conf.parse("") == ResolvConf(("127.0.0.1:53",), (), 1, 1.0, 2, False)


def test_everything_resolv_conf_may_say() -> None:
    found = resolv_conf.parse(
        "nameserver 192.0.2.53\n"
        "nameserver 2001:db8::53\n"
        "nameserver [127.0.0.1]:5300\n"
        "search One.test two.test.\n"
        "options ndots:2 timeout:3 attempts:4 rotate edns0\n"
    )
    assert found == ResolvConf(
        ("192.0.2.53:53", "[2001:db8::53]:53", "127.0.0.1:5300"), ("one.test", "two.test"), 2, 3.0, 4, True
    )


def test_the_last_of_domain_and_search_counts() -> None:
    assert resolv_conf.parse("domain one.test\nsearch two.test three.test").search == (
        "two.test",
        "three.test",
    )
    assert resolv_conf.parse("search two.test three.test\ndomain one.test").search == ("one.test",)


def test_options_keep_within_glibcs_bounds() -> None:
    found = resolv_conf.parse("options ndots:99 timeout:99 attempts:99")
    assert (found.ndots, found.timeout_s, found.attempts) == (15, 30.0, 5)
    found = resolv_conf.parse("options timeout:0 attempts:0 ndots:x ndots: ndots")
    assert (found.ndots, found.timeout_s, found.attempts) == (1, 1.0, 1)


def test_names_are_completed_as_resolv_conf_has_it() -> None:
    conf = ResolvConf(("127.0.0.1:53",), ("one.test", "two.test"), ndots=2)
    assert conf.candidates("db") == ["db.one.test", "db.two.test", "db"]
    assert conf.candidates("db.prod") == ["db.prod.one.test", "db.prod.two.test", "db.prod"]
    assert conf.candidates("a.b.c") == ["a.b.c", "a.b.c.one.test", "a.b.c.two.test"]
    assert conf.candidates("db.") == ["db"]


def test_a_name_that_completing_makes_too_long_is_left_out() -> None:
    conf = ResolvConf(("127.0.0.1:53",), ("x" * 60 + ".test",), ndots=9)
    name = ".".join(["y" * 62] * 4)
    assert conf.candidates(name) == [name]


# --- changes --------------------------------------------------------------------------------------


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    file = WatchedFile(str(path), hosts.parse)
    assert file.get(0.0) == {}
    path.write_text("192.0.2.1 db")
    assert file.get(0.5) == {}  # it is not looked at on every call
    first = file.get(CHECK_INTERVAL_S)
    assert first == {"db": ("192.0.2.1",)}
    assert file.get(2 * CHECK_INTERVAL_S) is first
    path.write_text("192.0.2.2 db")
    os.utime(path, ns=(1, 1))
    assert file.get(3 * CHECK_INTERVAL_S) == {"db": ("192.0.2.2",)}
    path.unlink()
    assert file.get(4 * CHECK_INTERVAL_S) == {}


def test_a_file_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    path, other = tmp_path / "hosts", tmp_path / "other"
    path.write_text("192.0.2.1 db")
    file = WatchedFile(str(path), hosts.parse)
    assert file.get(0.0)
    other.write_text("192.0.2.2 db")
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    other.replace(path)
    assert file.get(CHECK_INTERVAL_S) == {"db": ("192.0.2.2",)}

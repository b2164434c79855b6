"""Kinds are found by their names, and imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import reqpool
from reqpool.kinds import find
from reqpool.kinds.registry import INSTALLED


def test_a_kind_is_one_object() -> None:
    assert find("udp") is find("udp") is INSTALLED["udp"]
    assert find("udp").name == "udp"


def test_a_kind_is_imported_when_it_is_first_used() -> None:
    script = (
        "import sys; from reqpool.kinds import find; before = 'reqpool.kinds.tcp' in sys.modules; "
        "find('tcp'); print(before, 'reqpool.kinds.tcp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "False True\n"


def test_an_unknown_name_is_refused_with_those_that_are_installed_and_is_not_remembered() -> None:
    known = "installed kinds: dns, http, mysql, redis, redis-exclusive, tcp, udp"
    with pytest.raises(reqpool.UsageError, match=f"unknown kind 'gopher'; {known}"):
        find("gopher")
    assert "gopher" not in INSTALLED

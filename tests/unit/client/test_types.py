"""What type checkers, and so editors, see of the public interface: mypy is asked about each line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.sources import ROOT

PRELUDE = """\
from typing import Any
import reqpool

pool = reqpool.Pool("tcp://127.0.0.1:1")

def takes_answer(future: reqpool.Future[reqpool.DnsAnswer]) -> None: ...
def takes_bytes(future: reqpool.Future[bytes]) -> int: ...
"""

SEEN = {
    'pool.dns("a.test")': "reqpool.future.Future[reqpool_contract.payloads.dns_answer.DnsAnswer]",
    'pool.dns("a.test", timeout=2, callback=takes_answer, priority=0, idempotent=False, block=True)': (
        "reqpool.future.Future[reqpool_contract.payloads.dns_answer.DnsAnswer]"
    ),
    'pool.udp("h:1", b"", callback=takes_bytes).result()': "bytes",
    'pool.udp("h:1", b"", callback=print, timeout=None)': "reqpool.future.Future[bytes]",
    'pool.tcp("h:1", b"", until=b"x", idempotent=True).result()': "bytes",
    'pool.http("GET", "http://h/", priority=2)': (
        "reqpool.future.Future[reqpool.kinds.http_response.HttpResponse]"
    ),
    'pool.redis("redis://h", "GET", "k").result()': "Any",
    'pool.redis_multi("redis://h", [("GET", "k")]).result()': "list[Any]",
    'pool.mysql("mysql://h", "SELECT 1").result()': "reqpool.kinds.mysql_result.MysqlResult",
    'pool.mysql_session("mysql://h").query("SELECT 1").result()': ("reqpool.kinds.mysql_result.MysqlResult"),
    'pool.submit("udp", "h:1", b"", until=b"x")': "reqpool.future.Future[Any]",
    'next(pool.map(pool.dns, ["a.test"], server="h"))': (
        "tuple[str, reqpool.future.Future[reqpool_contract.payloads.dns_answer.DnsAnswer]]"
    ),
}
"""Expressions, and the types that mypy reveals."""

REFUSED = {
    'pool.dns("a.test", tiemout=2)': 'Unexpected keyword argument "tiemout"',
    'pool.dns("a.test", timeout="2")': 'Argument "timeout" to "dns" of "Pool" has incompatible type "str"',
    'pool.dns("a.test", callback=takes_bytes)': 'Argument "callback" to "dns" of "Pool"',
    'pool.udp("h:1", b"", callback=takes_answer)': 'Argument "callback" to "udp" of "Pool"',
    'pool.http("GET", "http://h/", priority=None)': 'Argument "priority" to "http" of "Pool"',
    'pool.redis("redis://h", "GET", "k", blocks=True)': 'Unexpected keyword argument "blocks"',
    "pool.ask": 'has no attribute "ask"',
}
"""Expressions that are wrong, and how mypy says so."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run mypy once; what it says about each expression."""
    lines = [*(f"reveal_type({code})" for code in SEEN), *REFUSED]
    path = tmp_path_factory.mktemp("types") / "cases.py"
    path.write_text(PRELUDE + "\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", "--hide-error-context", str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert not done.stderr
    first = PRELUDE.count("\n") + 1
    found: dict[str, str] = {}
    for code, number in zip([*SEEN, *REFUSED], range(first, first + len(lines)), strict=True):
        texts = re.findall(rf"{re.escape(Path(path).name)}:{number}: \w+: (.*)", done.stdout)
        found[code] = "\n".join(texts).replace("builtins.", "")  # as newer versions of mypy write it
    return found


@pytest.mark.parametrize("code", SEEN)
def test_the_type_of_a_result_is_known(said: dict[str, str], code: str) -> None:
    assert said[code] == f'Revealed type is "{SEEN[code]}"'


@pytest.mark.parametrize("code", REFUSED)
def test_a_wrong_option_is_found_before_the_program_runs(said: dict[str, str], code: str) -> None:
    assert REFUSED[code] in said[code]

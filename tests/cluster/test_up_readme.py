"""README is true: its example runs as printed, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.knot import KnotServer
from support.mariadb import MariadbServer
from support.nginx import NginxServer
from support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_printed(
    knot: KnotServer, nginx: NginxServer, redis_server: RedisServer, mariadb: MariadbServer
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    mariadb.run(
        "CREATE DATABASE shop",
        "CREATE TABLE shop.orders (id INT, day DATE)",
        "CREATE TABLE shop.stock (id INT, n INT)",
        "INSERT INTO shop.stock VALUES (7, 10)",
    )
    redis_server.command("SET", "key", "value")
    for printed, real in {
        "127.0.0.1:5300": knot.address,
        "https://api.example/v1/orders": f"{nginx.url}/connection",  # a number, and so JSON
        "redis://127.0.0.1/0": redis_server.url,
        "mysql://app@db.example/shop": mariadb.url(database="shop"),
    }.items():
        assert printed in example
        example = example.replace(printed, real)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    # Not by lines: the callback prints on a thread of its own, and print() writes text and newline apart.
    for said in ("nowhere.example.test NXDOMAIN ()", "<reqpool.Future #1"):
        assert said in done.stdout
    assert re.search(r"www\.example\.test NOERROR .*192\.0\.2\.1", done.stdout)
    assert mariadb.run("SELECT n FROM shop.stock") == [(9,)]  # the session has committed


def test_the_commands_exist() -> None:
    scripts = set(re.findall(r"ops/[a-z-]+\.sh", README))
    assert scripts >= {"ops/start-cluster.sh", "ops/test.sh"}
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)
    usage = subprocess.run(
        [sys.executable, "-m", "reqpool_ops", "--help"], capture_output=True, text=True
    ).stdout
    commands = re.findall(r"\| `reqpool ([a-z]+)", README)
    assert commands
    for command in commands:
        assert re.search(rf"^ +{command} ", usage, re.MULTILINE), command


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    titles = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/operations.md", "docs/protocol.md", "docs/kinds.md", "docs/reliability.md"],
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text())
    assert links
    for file, anchor in links:
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not anchor or anchor in _anchors(target), f"{file}#{anchor}"

"""What apps and kinds of third parties had in 0.2.0 still works: the names that they import, and pickles."""

from __future__ import annotations

import base64
import importlib
import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest

import reqpool

from .pickled_objects import objects

PICKLED: dict[str, str] = json.loads((Path(__file__).parent / "pickled_by_0_2_0.json").read_text())
NAMES = list(objects())

IMPORTED = {
    "reqpool": " ".join(reqpool.__all__),
    "reqpool.errors": (
        "BadResponse BrokerUnavailable Cancelled ClusterError Code ConnectFailed ConnectionLost HttpError"
        " MysqlError OutcomeUnknown Overloaded PoolError ProtocolError RedisError RequestTimeout"
        " UpstreamError UpstreamRefused UsageError WorkerLost"
    ),
    "reqpool.held": "Held",
    "reqpool.kinds": "Asked Endpoint Followed Kind Route find with_idempotence",
    "reqpool.kinds.dns_answer": "DnsAnswer DnsRecord DnsText",
    "reqpool.kinds.host_name": "as_served canonical_address canonical_host netloc to_ascii",
    "reqpool.kinds.http_response": "HttpResponse",
    "reqpool.kinds.mysql_result": "MysqlResult",
    "reqpool.kinds.origin": (
        "Endpoint NAME Tls Url endpoint host_and_port named netloc parse upstream_of without_password"
    ),
    "reqpool.masking": "without_password without_passwords",
    "reqpool_workers.protocols": (
        "READY DatagramKind DatagramProtocol Event StreamKind StreamProtocol WorkerKind stream_address"
    ),
}


@pytest.mark.parametrize("module", IMPORTED)
def test_names_are_where_they_are_imported_from(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in IMPORTED[module].split() if not hasattr(found, name)] == []


def facts(made: Any) -> Any:
    """What can be seen of an object."""
    if isinstance(made, Exception):
        state = {name: facts(value) for name, value in vars(made).items()}
        return type(made), str(made), state
    if isinstance(made, reqpool.DnsAnswer):
        return made.raw, made.records
    if isinstance(made, reqpool.HttpResponse):
        history = [facts(one) for one in made.history]
        return made.status, made.url, list(made.headers.items()), made.content, made.facts, history
    if isinstance(made, reqpool.MysqlResult):
        return [(one.rows, one.fields, one.affected, one.last_id, one.info) for one in made.sets]
    return type(made), repr(made)


@pytest.mark.parametrize("name", NAMES)
def test_what_0_2_0_pickled_is_what_it_was(name: str) -> None:
    made, loaded = objects()[name], pickle.loads(base64.b64decode(PICKLED[name]))
    assert type(loaded) is type(made)
    assert facts(loaded) == facts(made)


def test_an_http_answer_that_0_2_0_pickled_knows_its_time() -> None:
    loaded = pickle.loads(base64.b64decode(PICKLED["HttpResponse"]))
    assert loaded.elapsed_s == loaded.facts.elapsed_s == 0.25


def named(pickled: bytes) -> set[str]:
    """Return the classes and functions that a pickle names, but for Python's own: 3.11.2 calls getattr for an
    IntEnum, 3.11.7 its class."""
    found = {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    return {name for name in found if not name.startswith("__builtin__ ")}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("HttpError", "HttpResponse")])
def test_0_2_0_finds_everything_that_a_pickle_names(name: str) -> None:
    assert named(pickle.dumps(objects()[name], 2)) == named(base64.b64decode(PICKLED[name]))


@pytest.mark.parametrize("name", ["MysqlResult", "MysqlResult with rows"])
def test_the_state_of_a_mysql_result_is_the_one_that_0_2_0_knows(name: str) -> None:
    state = objects()[name].__reduce_ex__(2)[2]
    assert state[0] is None
    assert set(state[1]) == {"_data", "_set", "_further"}
    assert all(f"{key}".encode() in base64.b64decode(PICKLED[name]) for key in state[1])

from __future__ import annotations

import concurrent.futures
import copy
import pickle

import pytest

from reqpool_contract import errors
from reqpool_contract.errors import Code, PoolError

CODES = {
    "OK": 0,
    "USAGE": 1,
    "PROTOCOL": 2,
    "AGAIN": 3,
    "BROKER_UNAVAILABLE": 10,
    "OVERLOADED": 11,
    "WORKER_LOST": 12,
    "OUTCOME_UNKNOWN": 13,
    "CANCELLED": 14,
    "TIMEOUT": 20,
    "UPSTREAM": 30,
    "CONNECT_FAILED": 31,
    "CONNECTION_LOST": 32,
    "BAD_RESPONSE": 33,
    "UPSTREAM_REFUSED": 34,
}
"""Frozen. A new code is a new line here; a line here never changes: peers of other versions speak it."""

TREE = {
    "UsageError": "PoolError",
    "ProtocolError": "PoolError",
    "ClusterError": "PoolError",
    "BrokerUnavailable": "ClusterError",
    "Overloaded": "ClusterError",
    "WorkerLost": "ClusterError",
    "OutcomeUnknown": "ClusterError",
    "Cancelled": "ClusterError",
    "RequestTimeout": "PoolError",
    "UpstreamError": "PoolError",
    "ConnectFailed": "UpstreamError",
    "ConnectionLost": "UpstreamError",
    "BadResponse": "UpstreamError",
    "UpstreamRefused": "UpstreamError",
    "HttpError": "UpstreamError",
    "RedisError": "UpstreamError",
    "MysqlError": "UpstreamError",
}

ALL = [getattr(errors, name) for name in TREE]


def test_codes_are_frozen() -> None:
    assert {code.name: code.value for code in Code} == CODES


def test_the_tree_is_the_documented_one() -> None:
    found = {
        name: cls.__bases__[0].__name__
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, PoolError) and cls is not PoolError
    }
    assert found == TREE


def test_every_code_of_an_error_stands_for_one_class_and_back() -> None:
    assert set(errors.BY_CODE) == set(Code) - {Code.OK, Code.AGAIN}
    assert all(cls.code == code for code, cls in errors.BY_CODE.items())


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.RequestTimeout, TimeoutError),
        (errors.Cancelled, concurrent.futures.CancelledError),
    ],
)
def test_builtin_handlers_catch_what_they_expect(cls: type[PoolError], builtin: type[BaseException]) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_survive_pickling_and_copying(cls: type[PoolError], clone: object) -> None:
    error = cls(
        "what happened",
        request_id="00ff-7",
        origin="dns://127.0.0.1:53",
        phase="read",
        elapsed_s=1.5,
        attempts=2,
        sent=True,
        retry_after_s=0.25,
    )
    twin = clone(error)  # type: ignore[operator]
    assert type(twin) is cls
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)
    assert twin.args == error.args


def test_an_error_says_where_and_how_long() -> None:
    error = errors.RequestTimeout(
        "no answer", origin="dns://[::1]:53", phase="read", elapsed_s=2.0, attempts=3
    )
    assert str(error) == "no answer (dns://[::1]:53, phase read, after 2.000 s, 3 attempts)"


def test_an_error_that_knows_no_more_is_only_its_text() -> None:
    assert str(errors.UsageError("bad name")) == "bad name"

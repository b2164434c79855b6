"""Objects that apps may have pickled: in queues, caches, and between processes of different versions.

``pickled_by_0_2_0.json`` was written by this file, run with the sources of that version:

    PYTHONPATH=<0.2.0>/client python tests/unit/client/pickled_objects.py > pickled_by_0_2_0.json
"""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import reqpool
from reqpool import errors
from reqpool.kinds.dns_answer import DnsAnswer
from reqpool.kinds.http_response import HttpResponse
from reqpool.kinds.mysql_result import MysqlResult
from reqpool.kinds.origin import Tls

DNS = (
    b"\0\0\x81\x80\0\1\0\2\0\0\0\0\3www\7example\4test\0\0\1\0\1"
    b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
    b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\6\2ab\2cd"
)
MYSQL = (
    b"\1\0\0\1\3"
    b"\x1e\0\0\2\3def\4test\1t\1t\1n\1n\x0c?\0\xfc\3\0\0\xf6\0\0\0\0\0"
    b'"\0\0\3\3def\4test\1t\1t\3day\3day\x0c?\0\xfc\3\0\0\x0c\0\0\0\0\0'
    b"\x1e\0\0\4\3def\4test\1t\1t\1t\1t\x0c-\0\xfc\3\0\0\xfd\0\0\0\0\0"
    b"\x1c\0\0\5\5-1.10\x132024-02-29 23:59:01\1x"
    b"\4\0\0\6\xfb\xfb\1y"
    b"\7\0\0\7\xfe\0\0\n\0\0\0"
    b"\7\0\0\x08\0\3\7\2\0\0\0"
)
"""Rows of a DECIMAL, a DATETIME and a text, followed by a second result."""


def objects() -> dict[str, Any]:
    """Make each of them, by a name."""
    about: dict[str, Any] = {
        "request_id": "abc-7", "origin": "redis://127.0.0.1:6379", "phase": "read", "elapsed_s": 0.25,
        "attempts": 2, "sent": True, "retry_after_s": 1.5,
    }  # fmt: skip
    found: dict[str, Any] = {
        name: getattr(errors, name)("something is wrong", **about)
        for name in (
            "PoolError", "UsageError", "ProtocolError", "ClusterError", "BrokerUnavailable", "Overloaded",
            "WorkerLost", "OutcomeUnknown", "Cancelled", "RequestTimeout", "UpstreamError", "ConnectFailed",
            "ConnectionLost", "BadResponse", "UpstreamRefused",
        )
    }  # fmt: skip
    first = HttpResponse(b"HTTP/1.1 302 Found\r\nLocation: /b", b"", "http://127.0.0.1/a")
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain"
    page = HttpResponse(head, b"gone", "http://127.0.0.1/b", (first,), 0.25)
    answer, rows = DnsAnswer(DNS), MysqlResult(MYSQL)
    found["HttpError"] = errors.HttpError("404", status=404, response=page)
    found["RedisError"] = errors.RedisError("WRONGTYPE", reply_code="WRONGTYPE", **about)
    found["MysqlError"] = errors.MysqlError("Duplicate entry", number=1062, sqlstate="23000", **about)
    found |= {"HttpResponse": page, "HttpHeaders": page.headers}
    found |= {"DnsAnswer": answer, "DnsRecord": answer.records[0]}
    rows.rows  # noqa: B018  # reads them
    found |= {"MysqlResult": MysqlResult(MYSQL), "MysqlResult with rows": rows, "MysqlColumn": rows.fields[0]}
    found["Tls"] = Tls(ca="/etc/ca.pem", server_name="db.example")
    found["Stats"] = reqpool.Stats("ipc:///run/pool", "open", 1, 2)
    found["Code"] = errors.Code.TIMEOUT
    return found


if __name__ == "__main__":
    dumped = {name: base64.b64encode(pickle.dumps(each, 2)).decode() for name, each in objects().items()}
    print(json.dumps(dumped, indent=1))

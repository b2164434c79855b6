"""``docs/protocol.md`` and ``reqpool_contract.wire`` say the same, field by field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from reqpool_broker import (
    admission,
    pin,
    session,
    session_lifecycle,
    settings_budget,
    status_report,
    worker_hello,
)
from reqpool_broker.client_limits import ClientLimits
from reqpool_contract import checks, errors, wire
from reqpool_contract.wire import FailedAttempts, Flag, KindInfo, LeaseGroup, SubmitGroup, Verb
from reqpool_workers import worker_conversation

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")

SCHEMAS = {
    "Client to broker (intake)": wire.CLIENT_TO_BROKER,
    "Broker to client (intake)": wire.BROKER_TO_CLIENT,
    "Published (results socket)": wire.PUBLISHED,
    "Worker to broker (workers socket)": wire.WORKER_TO_BROKER,
    "Broker to worker (workers socket)": wire.BROKER_TO_WORKER,
}

SAMPLES: dict[str, Any] = {
    "uint": 7,
    "str": "text",
    "map": {"key": 1},
    "bin16": bytes(16),
    "bin": b"bytes",
    "bin0/16": b"",
    "bool": True,
    "array of uint": (1, 2),
    "array of bin16": (bytes(16),),
    "array of [session bin16, seqs]": ((bytes(16), (1,)),),
    "array of [session bin16, seqs, failed uint]": ((bytes(16), (1,), 0),),
    "array of [session bin16, seqs, sent bool]": ((bytes(16), (1,), True),),
    "array of [seq uint, attempts uint]": ((1, 2),),
    "array of [first uint, last uint]": ((1, 2),),
    "array of *group*": ((("dns", ("dns://127.0.0.1:53",), 1, 0, 0, None, None, (1,), (b"",))),),
    "array of *failed*": ((bytes(16), (1,), 20, True, b""),),
    "array of *lease group*": ((bytes(16), "dns", "dns://127.0.0.1:53", 1, 0, 1, None, None, (1,), (b"",)),),
}
"""A value of each type that the document names."""
LONGER = {
    "bin": {"bin16", "bin0/16"},
    "bin0/16": {"bin16"},
    "array of [session bin16, seqs]": {
        "array of [session bin16, seqs, failed uint]",
        "array of [session bin16, seqs, sent bool]",
        "array of *failed*",
    },
    "array of [session bin16, seqs, sent bool]": {"array of [session bin16, seqs]"},
    "array of [session bin16, seqs, failed uint]": {"array of *failed*"},
    "array of [seq uint, attempts uint]": {"array of [first uint, last uint]"},
    "array of [first uint, last uint]": {"array of [seq uint, attempts uint]"},
}
"""What begins like another, and so is taken for it: further elements are a later version's."""


def section(title: str) -> str:
    """Return the text under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}$\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/protocol.md has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows but the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row, line in zip(cells, lines, strict=True) if not re.fullmatch(r"[|\- ]+", line)][1:]


def split_fields(text: str) -> list[tuple[str, str]]:
    """Split ``a uint, b array of [x, y]`` into (name, type), at the commas outside of brackets."""
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    return [(name, kind) for name, _, kind in (part.partition(" ") for part in parts)]


def documented(title: str) -> dict[str, tuple[int, list[tuple[str, str]]]]:
    return {verb: (int(number), split_fields(fields)) for verb, number, fields in rows(section(title))}


@pytest.mark.parametrize("title", SCHEMAS)
def test_verbs_and_fields_are_those_of_the_document(title: str) -> None:
    said = {
        verb: (number, [name for name, _ in fields]) for verb, (number, fields) in documented(title).items()
    }
    coded = {verb.name: (int(verb), [name for name, *_ in layout]) for verb, layout in SCHEMAS[title].items()}
    assert coded == said


@pytest.mark.parametrize("title", SCHEMAS)
def test_every_field_takes_its_documented_type_and_no_other(title: str) -> None:
    for verb, (_, fields) in documented(title).items():
        layout = SCHEMAS[title][Verb[verb]]
        assert len(layout) == len(fields)
        for (name, check, *_), (_, kind) in zip(layout, fields, strict=True):
            base = "array of uint" if kind == "seqs" else kind
            taken = {other for other, sample in SAMPLES.items() if accepts(check, sample)}
            assert taken == {base} | LONGER.get(base, set()), f"{verb}.{name}"


def accepts(check: checks.Check, value: Any) -> bool:
    try:
        read = check(value)
    except errors.ProtocolError:
        return False
    return not (type(read) is list and any(type(item) is wire.BadGroup for item in read))


def test_every_verb_is_in_a_table() -> None:
    assert {verb for title in SCHEMAS for verb in documented(title)} == {verb.name for verb in Verb}


def test_the_version_is_the_documents() -> None:
    assert DOCUMENT.startswith(f"# The reqpool protocol, version {wire.VERSION}\n")
    assert wire.LOWEST_VERSION <= wire.VERSION


@pytest.mark.parametrize(
    ("title", "record"), [("group", SubmitGroup), ("lease group", LeaseGroup), ("failed", FailedAttempts)]
)
def test_records_are_those_of_the_document(title: str, record: Any) -> None:
    found = re.search(r"`\[(.*?)\]`", section(title), re.DOTALL)
    assert found
    said = [name for name, _ in split_fields(" ".join(found[1].split()))]
    coded = [field.removesuffix("_ms") for field in record._fields]  # units are in the code's names
    assert coded == said


def test_what_a_worker_says_of_a_kind_is_the_documents() -> None:
    found = re.search(r"`kinds`\s+array of `\[(.*?)\]`", section("Worker to broker (workers socket)"))
    assert found
    assert list(KindInfo._fields) == [name for name, _ in split_fields(found[1])]


def test_outcome_codes_are_those_of_the_document() -> None:
    said: dict[int, str] = {}
    for left, left_text, right, right_text in rows(section("blob")):
        said[int(left)] = left_text
        if right:
            said[int(right)] = right_text
    assert said == {code.value: code.name.lower().replace("_", " ") for code in errors.Code} | {
        30: "upstream error"
    }


def test_reject_codes_are_those_of_the_document() -> None:
    found = re.search(r"\*\*REJECT\*\* `code`:(.*?)\.", section("Broker to client (intake)"), re.DOTALL)
    assert found
    numbers = [int(number) for number in re.findall(r"\b(\d+) [a-z]", found[1])]
    assert numbers == [code.value for code in wire.Reject]


def test_flags_are_those_of_the_document() -> None:
    found = re.search(r"`flags`:(.*?)\. `priority`", " ".join(section("group").split()))
    assert found
    assert re.findall(r"(\d+) ([a-z]+)", found[1]) == [
        (str(flag.value), str(flag.name).lower()) for flag in Flag
    ]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("timeout", f"{wire.MAX_SPAN_MS // 3_600_000} h"),
        ("priority", f"0 to {wire.LOWEST_PRIORITY}"),
        ("name of a kind", f"1 to {wire.MAX_KIND_CHARS} characters"),
        ("upstreams to try in turn", f"1 to {wire.MAX_ORIGINS}"),
        ("origin", f"1 to {wire.MAX_ORIGIN_CHARS:,} characters"),
        ("settings", f"{wire.MAX_SETTINGS_BYTES:,} bytes"),
        ("payload", f"{wire.MAX_PAYLOAD_BYTES >> 20} MiB"),
        ("trace context", f"{wire.MAX_TRACE_BYTES >> 10} KiB"),
        ("answer: `max_bytes`, `max_response_bytes`", f"{wire.MAX_ANSWER_BYTES >> 20} MiB"),
        ("text of an error", f"{wire.MAX_ERROR_CHARS:,} characters"),
        ("details of an error", f"{wire.MAX_ERROR_BYTES >> 10} KiB"),
        ("requests in a SUBMIT that are refused one by one", f"{wire.MAX_REFUSED_REQUESTS:,}"),
        ("settings cached for a session / by a worker", f"{wire.SESSION_KEEPS} / {wire.WORKER_KEEPS}"),
        ("settings cached for all sessions", f"{settings_budget.MAX_ALL_CACHED_BYTES >> 30} GiB"),
        ("name in HELLO", f"{wire.MAX_NAME_CHARS} characters"),
        ("limit and depth of a kind in HELLO, slots", f"1 to {wire.MAX_SLOTS:,}"),
        ("origins in a worker's sample", f"{wire.MAX_SAMPLE_ORIGINS}"),
        ("sessions and origins in a STATUS report", f"{status_report.MAX_REPORTED}"),
        (
            "sessions / workers of a broker",
            f"{session_lifecycle.MAX_SESSIONS:,} / {worker_hello.MAX_WORKERS:,}",
        ),
        ("unacknowledged result batches", f"{session.ROOM_BATCHES} or {session.ROOM_BYTES >> 20} MiB"),
        (
            "unacknowledged result batches, the broker's own included",
            f"{session.MAX_UNACKED_BATCHES:,}",
        ),
        (
            "requests held for one session",
            f"{ClientLimits().max_pending:,} or {ClientLimits().max_queued_bytes >> 20} MiB of payloads",
        ),
        ("messages of a session in a second", f"{ClientLimits().max_messages_per_s:,}"),
        ("refused subscriptions of a connection", f"{ClientLimits().max_refused_subscriptions}"),
        (
            "requests held for all sessions",
            f"{admission.MAX_ALL_PENDING:,} or {admission.MAX_ALL_QUEUED_BYTES >> 30} GiB of payloads",
        ),
        ("pinned connections of a session", f"{pin.MAX_PINS:,}"),
        ("results that a worker retains", f"{worker_conversation.RETAINED_RESULTS_BYTES >> 20} MiB"),
        ("heartbeat / liveness", f"{wire.HEARTBEAT_MS:,} ms / {wire.LIVENESS_MS:,} ms"),
        ("session expiry", f"{wire.SESSION_EXPIRY_MS // 1000} s of silence"),
        ("requests in a SUBMIT, a LEASE group or a RESULTS group", f"{wire.MAX_BATCH_REQUESTS}"),
        ("payloads in a SUBMIT", f"{wire.MAX_SUBMIT_BYTES >> 20} MiB"),
        (
            "size at which a batch is sent, settings that are not cached included",
            f"{wire.MAX_BATCH_BYTES >> 20} MiB",
        ),
        ("any message to a client or to the broker", f"{wire.MAX_MESSAGE_BYTES >> 20} MiB"),
    ],
)
def test_limits_are_those_of_the_document(what: str, value: str) -> None:
    found = [
        said for name, said, *_ in rows(section("Limits")) if name == what or name.startswith(f"{what} (")
    ]
    assert found == [value]


def test_verb_x_state_has_a_row_for_every_verb_that_the_broker_takes() -> None:
    named = [verb for row in rows(section("Verb x state")) for verb in re.findall(r"[A-Z]{3,}", row[0])]
    received = set(wire.CLIENT_TO_BROKER) | set(wire.WORKER_TO_BROKER)
    assert {verb.name for verb in received} <= set(named)

"""Every head of every direction: there and back; and whatever else comes is a ProtocolError, nothing else."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reqpool_contract import checks, plain_messages, wire
from reqpool_contract.errors import Code, ProtocolError
from reqpool_contract.wire import FailedAttempts, LeaseGroup, Schema, SubmitGroup, Verb

DIRECTIONS: dict[str, Schema] = {
    "client to broker": wire.CLIENT_TO_BROKER,
    "broker to client": wire.BROKER_TO_CLIENT,
    "published": wire.PUBLISHED,
    "worker to broker": wire.WORKER_TO_BROKER,
    "broker to worker": wire.BROKER_TO_WORKER,
}
MESSAGES = [
    pytest.param(schema, verb, id=f"{direction}: {verb.name}")
    for direction, schema in DIRECTIONS.items()
    for verb in schema
]
WITH_FIELDS = [
    pytest.param(schema, verb, id=f"{direction}: {verb.name}")
    for direction, schema in DIRECTIONS.items()
    for verb, layout in schema.items()
    if layout
]

# --- values ----------------------------------------------------------------------------------------

UINT = st.integers(0, 2**64 - 1)
ID = st.binary(min_size=16, max_size=16)
TEXT = st.text(max_size=20)
ORIGIN = st.text(min_size=1, max_size=30)
SEQS = st.lists(UINT, min_size=1, max_size=5).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | UINT | TEXT | st.binary(max_size=9) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ABOUT = st.dictionaries(TEXT, JSON, max_size=4)
REQUESTS = st.lists(st.tuples(UINT, st.binary(max_size=20)), min_size=1, max_size=5)
PIN, TRACE = st.none() | UINT, st.none() | st.binary(max_size=30)
SETTINGS = st.binary(max_size=30)
SPAN = st.integers(0, wire.MAX_SPAN_MS)
WATERMARK = st.just(b"") | st.binary(min_size=16, max_size=16)


@st.composite
def groups(draw: st.DrawFn) -> SubmitGroup:
    seqs, payloads = zip(*draw(REQUESTS), strict=True)
    origins = tuple(draw(st.lists(ORIGIN, min_size=1, max_size=wire.MAX_ORIGINS)))
    priority = draw(st.integers(0, wire.LOWEST_PRIORITY))
    return SubmitGroup(
        draw(TEXT),
        origins,
        draw(SPAN),
        draw(UINT),
        priority,
        draw(PIN),
        draw(TRACE),
        seqs,
        payloads,
        draw(SETTINGS),
        draw(st.none() | UINT),
        draw(WATERMARK),
    )


@st.composite
def lease_groups(draw: st.DrawFn) -> LeaseGroup:
    seqs, payloads = zip(*draw(REQUESTS), strict=True)
    attempt, flags = draw(UINT), draw(UINT)
    session, kind, origin = draw(ID), draw(TEXT), draw(ORIGIN)
    return LeaseGroup(
        session,
        kind,
        origin,
        draw(SPAN),
        flags,
        attempt,
        draw(PIN),
        draw(TRACE),
        seqs,
        payloads,
        draw(SETTINGS),
        draw(st.none() | UINT),
        draw(st.none() | UINT),
    )


FAILED = st.builds(FailedAttempts, ID, SEQS, UINT, st.booleans(), st.binary(max_size=20))

NAMED: dict[str, st.SearchStrategy[Any]] = {
    "about": ABOUT, "query": ABOUT, "report": ABOUT, "sample": ABOUT, "policy": ABOUT,
    "text": TEXT, "origin": ORIGIN, "session": ID, "worker": ID, "seqs": SEQS,
    "settings": SETTINGS, "piece": st.binary(max_size=20),
    "watermark": WATERMARK, "unrun": st.booleans(), "orderly": st.booleans(), "excused": st.booleans(),
    "undelivered": st.lists(UINT, max_size=3),
    "attempts": st.lists(st.tuples(UINT, UINT), max_size=3),
    "doubtful": st.lists(st.tuples(UINT, UINT), max_size=3),
}  # fmt: skip
GROUPS: dict[Verb, st.SearchStrategy[Any]] = {
    Verb.SUBMIT: groups(),
    Verb.LEASE: lease_groups(),
    Verb.RETRY: FAILED,
    Verb.RESULTS: st.tuples(ID, SEQS, UINT),
    Verb.RETURN: st.tuples(ID, SEQS, st.booleans()),
}


def values_of(schema: Schema, verb: Verb) -> st.SearchStrategy[tuple[Any, ...]]:
    """Make legal values for a head, from its fields' names."""
    record = GROUPS.get(verb, st.tuples(ID, SEQS))
    return st.tuples(
        *[
            st.lists(record, max_size=3) if name == "groups" else NAMED.get(name, UINT)
            for name, *_ in schema[verb]
        ]
    )


# --- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "verb"), MESSAGES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_head_comes_back_as_it_went(schema: Schema, verb: Verb, data: st.DataObject) -> None:
    values = data.draw(values_of(schema, verb))
    assert wire.decode(wire.encode(verb, *values), schema) == (verb, list(values))


@given(UINT, UINT, st.lists(lease_groups(), max_size=3))
def test_a_lease_that_is_read_in_one_look_is_what_the_tables_read(
    epoch: int, seen: int, groups: list[LeaseGroup]
) -> None:
    head = wire.encode(Verb.LEASE, epoch, seen, groups)
    plain = all(group.pin is None and group.trace is None for group in groups)
    assert plain_messages.plain_lease(head) == ((epoch, seen, groups) if plain else None)


@pytest.mark.parametrize(("schema", "verb"), MESSAGES)
@settings(max_examples=25)
@given(data=st.data())
def test_further_fields_of_a_later_version_are_ignored(
    schema: Schema, verb: Verb, data: st.DataObject
) -> None:
    values = data.draw(values_of(schema, verb))
    assert wire.decode(wire.encode(verb, *values, data.draw(JSON)), schema) == (verb, list(values))


@given(groups(), JSON)
def test_further_elements_of_a_group_are_ignored(group: SubmitGroup, more: Any) -> None:
    head = wire.encode(Verb.SUBMIT, 1, 0, [(*group, more)])
    assert wire.decode(head, wire.CLIENT_TO_BROKER)[1][2] == [group]


# --- what is illegal -------------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "verb"), MESSAGES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_head_cut_at_any_byte_is_a_protocol_error(schema: Schema, verb: Verb, data: st.DataObject) -> None:
    head = wire.encode(verb, *data.draw(values_of(schema, verb)))
    for length in range(len(head)):
        with pytest.raises(ProtocolError):
            wire.decode(head[:length], schema)
    with pytest.raises(ProtocolError):
        wire.decode(head + b"\x00", schema)


@pytest.mark.parametrize(("schema", "verb"), WITH_FIELDS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_missing_field_is_a_protocol_error(schema: Schema, verb: Verb, data: st.DataObject) -> None:
    values = data.draw(values_of(schema, verb))
    required = sum(len(field) == 2 for field in schema[verb])
    with pytest.raises(ProtocolError, match=f"{required - 1} fields, needs {required}"):
        wire.decode(wire.encode(verb, *values[: required - 1]), schema)


def test_a_field_that_may_be_missing_has_its_default() -> None:
    head = wire.encode(Verb.RESULTS, 1, 2, 3)
    assert wire.decode(head, wire.PUBLISHED) == (Verb.RESULTS, [1, 2, 3, ()])


def test_a_return_need_not_say_that_nothing_was_sent() -> None:
    groups = [(bytes(16), (1, 2)), (bytes(16), (3,), True)]
    _, values = wire.decode(wire.encode(Verb.RETURN, 1, 2, groups), wire.WORKER_TO_BROKER)
    assert values[2] == [(bytes(16), (1, 2), False), (bytes(16), (3,), True)]


WRONG = [None, True, -1, 1.5, "text", b"bytes", b"x" * 17, (), ("a",), (1, -1), (None,), {}, {b"key": 1}]


@pytest.mark.parametrize(("schema", "verb"), MESSAGES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_field_of_a_wrong_type_is_a_protocol_error_that_names_it(
    schema: Schema, verb: Verb, data: st.DataObject
) -> None:
    values = data.draw(values_of(schema, verb))
    for position, (name, check, *_) in enumerate(schema[verb]):
        for wrong in WRONG:
            if not accepts(check, wrong):
                head = wire.encode(verb, *values[:position], wrong, *values[position + 1 :])
                with pytest.raises(ProtocolError, match=rf"{verb.name}\.{name}: "):
                    wire.decode(head, schema)


def accepts(check: checks.Check, value: Any) -> bool:
    try:
        check(value)
    except ProtocolError:
        return False
    return True


LEGAL_TYPES: dict[str, set[type]] = {
    "groups": {tuple}, "seqs": {tuple}, "about": {dict}, "query": {dict}, "report": {dict}, "sample": {dict},
    "policy": {dict},
    "text": {str}, "origin": {str}, "session": {bytes}, "worker": {bytes},
    "settings": {bytes}, "piece": {bytes},
    "undelivered": {tuple}, "attempts": {tuple}, "doubtful": {tuple}, "watermark": {bytes},
    "unrun": {bool}, "orderly": {bool}, "excused": {bool},
}  # fmt: skip


@pytest.mark.parametrize(("schema", "verb"), MESSAGES)
def test_no_field_takes_a_type_that_is_not_its_own(schema: Schema, verb: Verb) -> None:
    for name, check, *_ in schema[verb]:
        for wrong in WRONG:
            if type(wrong) not in LEGAL_TYPES.get(name, {int}) or wrong == -1:
                assert not accepts(check, wrong), f"{verb.name}.{name} takes {wrong!r}"


@pytest.mark.parametrize("schema", DIRECTIONS.values(), ids=DIRECTIONS)
@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_protocol_error(schema: Schema, garbage: bytes) -> None:
    for frame in (garbage, b"\x94" + garbage, wire.encode(next(iter(schema)))[:-1] + garbage):
        try:
            verb, values = wire.decode(frame, schema)
        except ProtocolError:
            continue
        assert len(values) == len(schema[verb])


@pytest.mark.parametrize("schema", DIRECTIONS.values(), ids=DIRECTIONS)
@given(value=JSON)
def test_what_is_no_head_is_a_protocol_error(schema: Schema, value: Any) -> None:
    if type(value) is tuple and value and type(value[0]) is int:
        value = (value,)
    with pytest.raises(ProtocolError):
        wire.decode(msgpack.packb(value), schema)


@pytest.mark.parametrize("schema", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_verb_of_another_direction_or_none_is_a_protocol_error(schema: Schema) -> None:
    for number in {*range(300), 2**64 - 1, -1} - {int(verb) for verb in schema}:
        with pytest.raises(ProtocolError, match="not sent in this direction"):
            wire.decode(msgpack.packb((number, *range(9))), schema)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1",  # never used in msgpack
        b"\xdd\xff\xff\xff\xff",  # an array that says it has 4 G elements
        b"\xdf\xff\xff\xff\xff",  # a map that does
        b"\xc6\xff\xff\xff\xff",  # bytes that do
        b"\x91" * 100_000,  # nested for ever
        b"\x91" * 100_000 + b"\x00",
        b"\x92\x01\xd7\xff" + b"\xff" * 8,  # a timestamp with impossible nanoseconds
        b"\x92\x01\xd6\x05abcd",  # an extension type
        b"\x92\x01\xa1\xff",  # a string that is no UTF-8
        b"\x94\x01\x01\x01\x81\x90\x01",  # a map whose key cannot be hashed
        b"\x94\x01\x01\x01\x81\x01\x01",  # a map whose key is no string
    ],
)
def test_what_msgpack_stumbles_over_is_a_protocol_error(frame: bytes) -> None:
    for schema in DIRECTIONS.values():
        with pytest.raises(ProtocolError):
            wire.decode(frame, schema)
    with pytest.raises(ProtocolError):
        wire.decode_blob(frame)
    with pytest.raises(ProtocolError):
        wire.decode_error(frame)


GROUP = SubmitGroup("dns", ("dns://127.0.0.1:53",), 1000, 1, 1, None, None, (1, 2), (b"a", b"b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"origins": ()}, "1 to 8 origins"),
        ({"origins": ("dns://a",) * (wire.MAX_ORIGINS + 1)}, "1 to 8 origins"),
        ({"origins": ("",)}, "1 to 1024 characters"),
        ({"origins": ("x" * (wire.MAX_ORIGIN_CHARS + 1),)}, "1 to 1024 characters"),
        ({"span_ms": wire.MAX_SPAN_MS + 1}, "more than 24 h"),
        ({"priority": wire.LOWEST_PRIORITY + 1}, "priority"),
        ({"seqs": (1,)}, "differ in length"),
        ({"payloads": (b"a", "b")}, "payloads"),
        ({"payloads": (b"a", bytes(wire.MAX_PAYLOAD_BYTES + 1))}, "16 MiB"),
        ({"settings": bytes(wire.MAX_SETTINGS_BYTES + 1)}, "1048577 bytes"),
        ({"settings": None}, "bytes"),
        ({"kept": -1}, "unsigned"),
        ({"seqs": tuple(range(513)), "payloads": (b"",) * 513}, "more than 512"),
        ({"pin": -1}, "unsigned"),
        ({"trace": "text"}, "bytes"),
        ({"flags": None}, "unsigned"),
        ({"kind": b"dns"}, "a string"),
    ],
)
def test_a_group_over_a_limit_is_unread_and_the_others_of_its_message_are_not(
    change: dict[str, Any], says: str
) -> None:
    bad = GROUP._replace(**change)
    head = wire.encode(Verb.SUBMIT, 1, 0, [GROUP, bad, GROUP])
    first, unread, last = wire.decode(head, wire.CLIENT_TO_BROKER)[1][2]
    assert first == last == GROUP
    assert type(unread) is wire.BadGroup
    assert (unread.session, unread.seqs) == (b"", bad.seqs)
    assert says in unread.text


@pytest.mark.parametrize("seqs", [(), (1, -2), None, (1, "2")])
def test_a_submit_with_a_group_whose_requests_cannot_be_named_is_a_protocol_error(seqs: Any) -> None:
    head = wire.encode(Verb.SUBMIT, 1, 0, [GROUP, GROUP._replace(seqs=seqs)])
    with pytest.raises(ProtocolError, match=r"SUBMIT\.groups: .*sequence numbers"):
        wire.decode(head, wire.CLIENT_TO_BROKER)


LEASE_GROUP = LeaseGroup(bytes(16), "dns", "dns://a", 1000, 1, 1, None, None, (1, 2), (b"a", b"b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": 5}, "a string"),
        ({"origin": ""}, "1 to 1024 characters"),
        ({"origin": "x" * (wire.MAX_ORIGIN_CHARS + 1)}, "1 to 1024 characters"),
        ({"span_ms": wire.MAX_SPAN_MS + 1}, "more than 24 h"),
        ({"attempt": None}, "unsigned"),
        ({"seqs": (1,)}, "differ in length"),
        ({"settings": bytes(wire.MAX_SETTINGS_BYTES + 1)}, "1048577 bytes"),
        ({"wait_ms": -1}, "unsigned"),
        ({"kept": -1}, "unsigned"),
    ],
)
def test_a_lease_group_over_a_limit_is_unread_and_the_others_of_its_message_are_not(
    change: dict[str, Any], says: str
) -> None:
    bad = LEASE_GROUP._replace(**change)
    head = wire.encode(Verb.LEASE, 1, 1, [LEASE_GROUP, bad, LEASE_GROUP])
    first, unread, last = wire.decode(head, wire.BROKER_TO_WORKER)[1][2]
    assert first == last == LEASE_GROUP
    assert type(unread) is wire.BadGroup
    assert (unread.session, unread.seqs) == (bytes(16), bad.seqs)
    assert says in unread.text


@pytest.mark.parametrize(
    ("schema", "verb", "good"),
    [
        (wire.WORKER_TO_BROKER, Verb.RETURN, (bytes(16), (1,), False)),
        (wire.WORKER_TO_BROKER, Verb.RETRY, FailedAttempts(bytes(16), (1,), 20, True, b"")),
        (wire.BROKER_TO_WORKER, Verb.CANCEL, (bytes(16), (1,))),
        (wire.BROKER_TO_WORKER, Verb.LEASE, LEASE_GROUP),
    ],
)
@pytest.mark.parametrize("bad", [None, 5, "text", (), (bytes(15), (1,)), (bytes(16), ()), (bytes(16),)])
def test_a_group_of_which_nothing_can_be_read_is_passed_over(
    schema: Schema, verb: Verb, good: Any, bad: Any
) -> None:
    first, unread, last = wire.decode(wire.encode(verb, 1, 1, [good, bad, good]), schema)[1][2]
    assert first == last == good
    assert (type(unread), unread.session, unread.seqs) == (wire.BadGroup, b"", ())


@pytest.mark.parametrize(
    "older", [tuple(GROUP)[:9], tuple(GROUP)[:10], (*tuple(GROUP)[:9], b"settings")], ids=len
)
def test_a_group_of_an_older_peer_is_read(older: tuple[Any, ...]) -> None:
    head = wire.encode(Verb.SUBMIT, 1, 0, [older])
    assert wire.decode(head, wire.CLIENT_TO_BROKER)[1][2] == [SubmitGroup(*older)]


@pytest.mark.parametrize("length", [10, 11, 12])
def test_a_lease_group_of_an_older_broker_is_read(length: int) -> None:
    head = wire.encode(Verb.LEASE, 1, 1, [tuple(LEASE_GROUP)[:length]])
    assert wire.decode(head, wire.BROKER_TO_WORKER)[1][2] == [LEASE_GROUP]


def test_limits_themselves_are_legal() -> None:
    group = GROUP._replace(
        origins=("x" * wire.MAX_ORIGIN_CHARS,) * wire.MAX_ORIGINS,
        span_ms=wire.MAX_SPAN_MS,
        priority=wire.LOWEST_PRIORITY,
        seqs=tuple(range(wire.MAX_BATCH_REQUESTS)),
        payloads=(b"",) * wire.MAX_BATCH_REQUESTS,
    )
    assert wire.decode(wire.encode(Verb.SUBMIT, 1, 0, [group]), wire.CLIENT_TO_BROKER)[1][2] == [group]


# --- blobs and errors ------------------------------------------------------------------------------

ENTRIES = st.lists(st.tuples(UINT, st.integers(0, 255), st.binary(max_size=30)), max_size=5)


@given(ENTRIES)
def test_a_blob_comes_back_as_it_went(entries: list[tuple[int, int, bytes]]) -> None:
    flat = tuple(item for entry in entries for item in entry)
    frame = wire.encode_blob(flat)
    assert wire.decode_blob(frame) == flat
    assert wire.encode_blob(iter(flat)) == wire.encode_blob(list(flat)) == frame
    for length in range(len(frame)):
        with pytest.raises(ProtocolError):
            wire.decode_blob(frame[:length])


@pytest.mark.parametrize(
    "flat",
    [
        (1,), (1, 0), (1, 0, b"", 2), (1, 0, "text"), ("1", 0, b""), (1, None, b""), (True, 0, b""),
        (-1, 0, b""), (1, -1, b""), {}, 1, None,
    ],
)  # fmt: skip
def test_what_is_no_blob_is_a_protocol_error(flat: Any) -> None:
    with pytest.raises(ProtocolError):
        wire.decode_blob(msgpack.packb(flat))


@given(st.binary(max_size=100))
def test_garbage_in_a_blob_is_a_protocol_error(garbage: bytes) -> None:
    try:
        flat = wire.decode_blob(garbage)
    except ProtocolError:
        return
    assert len(flat) % 3 == 0


@pytest.mark.parametrize(
    ("entries", "read"),
    [
        ((1, 0, b"a", 2, 0, "text", 3, 0, b"c"), {1: 0, 2: Code.PROTOCOL, 3: 0}),
        ((1, 0, b"a", 2, None, b"b", 3, 0, b"c"), {1: 0, 2: Code.PROTOCOL, 3: 0}),
        ((1, 0, b"a", "2", 0, b"b", 3, 0, b"c"), {1: 0, 3: 0}),
        ((1, 0, b"a", 2), {1: 0, 2: Code.PROTOCOL}),
        ({}, {}),
        (7, {}),
    ],
)
def test_what_can_be_read_of_a_broken_blob_is_read(entries: Any, read: dict[int, int]) -> None:
    flat = wire.readable_entries(msgpack.packb(entries))
    assert dict(zip(flat[0::3], flat[1::3], strict=True)) == read
    assert wire.decode_blob(wire.encode_blob(flat)) == flat


@given(st.binary(max_size=100))
def test_of_garbage_in_a_blob_only_entries_are_read(garbage: bytes) -> None:
    flat = wire.readable_entries(garbage)
    assert wire.decode_blob(wire.encode_blob(flat)) == flat


@pytest.mark.parametrize("text", ["x" * 10_000_000, "\ud800" * 10_000, "a\udcffb", "ü" * 5_000, ""])
def test_an_error_gets_through_whatever_its_text(text: str) -> None:
    data = wire.encode_error(text, origin=text, phase="read", attempts=3, sent=True, retry_after_ms=5)
    assert len(data) <= wire.MAX_ERROR_BYTES
    assert wire.decode_error(data)["text"][:3] == text.encode("utf-8", "backslashreplace").decode()[:3]
    details = FailedAttempts(bytes(16), (1,), 20, True, b"x" * (wire.MAX_ERROR_BYTES + 1))
    (read,) = wire.decode(wire.encode(Verb.RETRY, 1, 1, [details]), wire.WORKER_TO_BROKER)[1][2]
    assert read.code == 20
    assert "16385 bytes" in wire.decode_error(read.details)["text"]


def test_an_errors_details_come_back_without_what_is_unknown() -> None:
    about = {"origin": "udp://a", "phase": "read", "attempts": 2, "sent": False, "retry_after_ms": 5}
    data = wire.encode_error("gone", **about)  # type: ignore[arg-type]
    assert wire.decode_error(data) == {"text": "gone", **about}
    assert wire.decode_error(wire.encode_error("gone")) == {"text": "gone", "attempts": 0}


@given(st.binary(max_size=60))
def test_garbage_in_an_errors_details_is_a_protocol_error(garbage: bytes) -> None:
    try:
        about = wire.decode_error(garbage)
    except ProtocolError:
        return
    assert all(type(key) is str for key in about)

"""``reqpool.toml``: what it says, what is wrong with it, and what a request's upstream becomes by it."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import pytest

from reqpool.kinds import Asked, Followed, Kind, Route
from reqpool.kinds.dns import KIND as DNS
from reqpool.kinds.tcp import KIND as TCP
from reqpool.kinds.udp import KIND as UDP
from reqpool_broker.config import EMPTY, Config, changes
from reqpool_broker.config_wire import pack, unpack
from reqpool_contract import origin_names
from reqpool_contract.errors import UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.tls_settings import Tls
from reqpool_ops import config_file
from reqpool_ops.config_file import ConfigError, Installed
from reqpool_ops.toml_lines import line_of, lines
from support import certificates

PASSWORD = "hunter2"


class StoreKind(Kind):
    """As Redis: user and database in the URL, a password beside it, variants."""

    name: ClassVar[str] = "store"
    schemes: ClassVar[tuple[str, ...]] = ("store", "stores")

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        raise AssertionError("a configuration asks nothing")

    def decode(self, data: bytes, request: Asked) -> Any:
        raise AssertionError("a configuration asks nothing")

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        parts = origin_names.parse(url, {"store": 7, "stores": 7})
        user = f"{parts.user}@" if parts.user else ""
        public = f"{parts.scheme}://{user}{netloc(parts.host, parts.port)}{parts.path or '/0'}"
        if parts.query:
            public += f"?{parts.query}"
        return origin_names.endpoint(public, {"password": password, "tls": (tls and tls.settings()) or None})


class ExclusiveKind(StoreKind):
    name: ClassVar[str] = "store-exclusive"


class FollowingKind(StoreKind):
    """As HTTP: an answer may lead to another URL."""

    name: ClassVar[str] = "page"
    schemes: ClassVar[tuple[str, ...]] = ("page",)

    def follow(self, data: bytes, request: Asked) -> Followed:
        raise AssertionError("a configuration asks nothing")

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        parts = origin_names.parse(url, {"page": 80})
        public = f"page://{netloc(parts.host, parts.port)}"
        return origin_names.endpoint(public, {"user": parts.user, "token": password})


KNOWN = Installed((StoreKind(), ExclusiveKind(), FollowingKind(), DNS, UDP, TCP), {"lost": "no such module"})


def read(text: str, folder: Path = Path("/nowhere"), **environ: str) -> Config:
    return config_file.read(textwrap.dedent(text), str(folder / "reqpool.toml"), environ, KNOWN)


def problems(text: str, folder: Path = Path("/nowhere"), **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, folder, **environ)
    return [line.removeprefix(f"{folder}/reqpool.toml:") for line in str(caught.value).split("\n")]


def settings_of(config: Config, name: str) -> Any:
    return msgpack.unpackb(config.upstreams[name].endpoint.settings)


# --- what it says -----------------------------------------------------------------------------------


def test_an_upstream_has_the_values_of_its_table() -> None:
    config = read(
        """
        [upstreams.cache]
        url = "store://app@10.0.0.5/3"
        password_env = "CACHE_PASSWORD"
        max_connections = 20
        queue_timeout_s = 1.0
        connect_timeout_s = 2
        read_timeout_s = 5.5
        idle_timeout_s = 31
        lifetime_s = 601
        max_response_bytes = 1_048_576
        retries = 0
        pin_idle_timeout_s = 61
        """,
        CACHE_PASSWORD=PASSWORD,
    )
    (cache,) = config.upstreams.values()
    assert cache.kinds == ("store", "store-exclusive")
    assert cache.endpoint.origin.startswith("store://app@10.0.0.5:7/3#")
    assert cache.key == "store://10.0.0.5:7"
    assert settings_of(config, "cache") == {"password": PASSWORD}
    assert cache.policy == Policy(20, None, 1.0, 2, 5.5, 31, 601, 1 << 20, 0, 61)
    assert PASSWORD not in repr(cache)


def test_what_a_table_does_not_say_is_as_in_defaults() -> None:
    config = read(
        """
        [defaults]
        max_connections = 8
        idle_timeout_s = 5
        [upstreams.cache]
        url = "store://10.0.0.5"
        idle_timeout_s = 6
        """
    )
    assert config.upstreams["cache"].policy == Policy(max_connections=8, idle_timeout_s=6)
    assert config.policy_of("store://10.0.0.9:7") == Policy(max_connections=8, idle_timeout_s=5)


def test_an_empty_file_changes_nothing() -> None:
    assert read("") == EMPTY
    assert EMPTY.policy_of("dns://127.0.0.1:53") == Policy()


def test_a_password_file_is_read_to_the_end_of_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(f" {PASSWORD} \r\nnotes\n".encode())
    config = read('[upstreams.cache]\nurl = "store://h"\npassword_file = "secret"', tmp_path)
    assert settings_of(config, "cache") == {"password": f" {PASSWORD} "}


def test_tls_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    authority = certificates.make(tmp_path).ca
    authority.rename(tmp_path / "ca.pem")
    config = read(
        """
        [upstreams.cache]
        url = "stores://h"
        tls = { ca = "ca.pem", server_name = "cache.internal", verify = false }
        """,
        tmp_path,
    )
    expected = {"ca": (tmp_path / "ca.pem").read_text(), "server_name": "cache.internal", "verify": False}
    assert settings_of(config, "cache") == {"tls": expected}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("dns://127.0.0.1", "dns://127.0.0.1:53"),
        ("DNS://[0::1]:5300/", "dns://[::1]:5300"),
        ("udp://127.0.0.1:7", "udp://127.0.0.1:7"),
        ("tcp://localhost:7", "tcp://127.0.0.1:7"),
    ],
)
def test_kinds_with_addresses_have_urls_too(url: str, expected: str) -> None:
    config = read(f'[upstreams.plain]\nurl = "{url}"')
    assert config.upstreams["plain"].endpoint == Endpoint(expected, b"")


def test_a_kind_without_connections_is_limited_in_requests() -> None:
    config = read('[upstreams.names]\nurl = "dns://127.0.0.1:53"\nmax_in_flight = 50')
    assert config.policy_of("dns://127.0.0.1:53").max_in_flight == 50


def test_it_is_packed_with_all_it_has() -> None:
    config = read('[upstreams.c]\nurl = "store://h"\npassword_env = "P"\n[defaults]\nretries = 0', P=PASSWORD)
    assert unpack(pack(config)) == config


# --- what is wrong with it --------------------------------------------------------------------------


def test_all_problems_are_said_at_once_in_the_order_of_the_file() -> None:
    text = """\
        wrong = 1
        [defaults]
        retries = 11
        [upstreams.cache]
        url = "store://h"
        max_connections = 0
        max_conections = 5
        [upstreams.empty]
        [upstreams.names]
        url = "dns://127.0.0.1"
        max_connections = 3
        [upstreams.cache.tls]
        verify = "yes"
    """
    assert problems(text) == [
        "1: wrong: unknown key; known: clients, defaults, upstreams",
        "3: defaults.retries: 11 is not a whole number from 0 to 10",
        "6: upstreams.cache.max_connections: 0 is not a whole number from 1 to 1000000",
        "7: upstreams.cache.max_conections: unknown key; did you mean max_connections?",
        "8: upstreams.empty: has no url",
        "11: upstreams.names.max_connections: kind 'dns' has no connections: its limit is max_in_flight",
        '13: upstreams.cache.tls.verify: "yes" is neither true nor false',
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("true", "true is not a"),
        ('"20"', '"20" is not a'),
        ("1.5", "1.5 is not a"),
        ("[1]", "an array is not a"),
        ("{ a = 1 }", "a table is not a"),
        ("1979-05-27", '"1979-05-27" is not a'),
        ("1000001", "1000001 is not a"),
        ("1" + "0" * 400, "1" + "0" * 38 + "… is not a"),
    ],
)
def test_what_is_no_number_of_connections_is_refused(value: str, said: str) -> None:
    (problem,) = problems(f'[upstreams.cache]\nurl = "store://h"\nmax_connections = {value}')
    assert problem == f"3: upstreams.cache.max_connections: {said} whole number from 1 to 1000000"


@pytest.mark.parametrize("value", ["0", "-1.0", "nan", "inf", "2592001", "false"])
def test_what_is_no_timeout_is_refused(value: str) -> None:
    (problem,) = problems(f'[upstreams.cache]\nread_timeout_s = {value}\nurl = "store://h"')
    assert problem.startswith("2: upstreams.cache.read_timeout_s: ")
    assert problem.endswith(" is not a number of seconds from 0.001 to 2592000")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[upstreams.a]\nurl = store://h", "2: column 7: Invalid value"),
        ("[upstreams.a]\nurl = 'x'\nurl = 'y'\n[defaults]", "3: column 10: Cannot overwrite a value"),
        ('[upstreams.a]\nurl = "x"\nretries =\n', "3: column 10: Invalid value"),
        ('[upstreams.a]\nurl = """x\n', "2: Unterminated string"),
        ("[upstreams.a\n", "1: column 13: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_syntax_error_has_its_line(text: str, said: str) -> None:
    assert problems(text) == [said]


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = 1" + "0" * 5000], ids=["deep", "long"])
def test_what_no_parser_can_take_is_said_too(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("1: not a configuration file: ")


def test_deep_keys_and_long_statements_are_said_at_once() -> None:
    assert problems("a." * 5000 + "b = 1") == ["1: a: unknown key; known: clients, defaults, upstreams"]
    long = "a = [\n" + "1,\n" * 50_000 + "]\nb = 1"
    assert problems(long)[0].startswith("1: a: unknown key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams = 3", "1: upstreams: must be a table: write [upstreams] above its keys"),
        (
            "[upstreams]\ncache = 3",
            "2: upstreams.cache: must be a table: write [upstreams.cache] above its keys",
        ),
        (
            "[[upstreams.cache]]",
            "1: upstreams.cache: must be a table: write [upstreams.cache] above its keys",
        ),
        (
            '[upstreams."my cache"]\nurl = "store://h"',
            "1: upstreams.my cache: is not a valid name: use a letter, then letters, digits, '_', '.' and "
            "'-', at most 64 characters",
        ),
        ("[upstreams.a]\nurl = 5", "2: upstreams.a.url: must be a quoted string"),
        ('[upstreams.a]\nurl = ""', "2: upstreams.a.url: is empty"),
        (
            '[upstreams.a]\nurl = "10.0.0.5:6379"',
            "2: upstreams.a.url: is not a URL; write it like redis://10.0.0.5:6379/0",
        ),
        ('[upstreams.a]\nurl = "store://h:x"', None),
        (
            '[upstreams.a]\nurl = "stroe://h"',
            "2: upstreams.a.url: no installed kind handles stroe:// URLs; "
            "did you mean store?; kind 'lost' cannot be loaded (no such module)",
        ),
        (
            '[upstreams.a]\nurl = "udp://127.0.0.1:7"\n[upstreams.a.tls]\n',
            "2: upstreams.a.url: udp:// does not support TLS",
        ),
    ],
)
def test_what_is_no_upstream_is_refused(text: str, said: str | None) -> None:
    (problem,) = problems(text)
    assert said is None or problem == said


def test_upstreams_at_one_server_share_its_limit() -> None:
    text = """\
        [upstreams.cache]
        url = "store://h/0"
        max_connections = 20
        read_timeout_s = 1
        [upstreams.sessions]
        url = "store://app@h:7/1"
        read_timeout_s = 2
    """
    said = "upstream 'cache' sets 20, but both are at store://h:7, which has one limit: give both the same"
    assert problems(text) == [f"5: upstreams.sessions.max_connections: {said}"]
    config = read(textwrap.dedent(text) + "max_connections = 20\n")
    assert len(config.by_key("store://h:7")) == 2
    assert config.policy_of("store://h:7/0").read_timeout_s == 1
    assert config.policy_of("store://app@h:7/1?exclusive#00").read_timeout_s == 2
    assert config.policy_of("store://other@h:7/5").max_connections == 20


# --- passwords --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f'url = "store://app:{PASSWORD}@h/0"',
        f'url = "store://:{PASSWORD}@h/0"',
        f'url = "store://app:pa/{PASSWORD}@h/0"',
        f'url = "store://h/0"\npassword = "{PASSWORD}"',
        f'url = "store://h/0"\npassword_env = "{PASSWORD}"',
        f'url = "store://h/0"\npassword_file = "{PASSWORD}"',
        f'url = "store://h/0"\npasswd = "{PASSWORD}"',
        f'url = "store://h/0"\npassword_env = ["{PASSWORD}"]',
        f'url = "store://h/0"\npassword_env = "{PASSWORD}\\n"',
        f'url = "{PASSWORD}"',
        f"url = {PASSWORD}",
        'url = "store://h:x"\npassword_env = "SECRET"\nretries = -1',
        'url = "udp://127.0.0.1:7"\npassword_env = "SECRET"',
    ],
)
def test_no_problem_shows_a_password(text: str, tmp_path: Path) -> None:
    said = "\n".join(problems(f"[upstreams.cache]\n{text}", tmp_path, SECRET=PASSWORD))
    assert PASSWORD not in said.replace(str(tmp_path), "")


def test_a_password_in_the_url_is_refused_with_the_way_out() -> None:
    (problem,) = problems(f'[upstreams.cache]\nurl = "store://app:{PASSWORD}@h"')
    assert problem == (
        "2: upstreams.cache.url: has a password in it; a password does not belong in this file: name an "
        "environment variable with password_env, or a file with password_file"
    )


def test_a_colon_and_a_percent_encoded_at_sign_are_not_a_password() -> None:
    config = read('[upstreams.cache]\nurl = "store://h:8080/a%40b"')
    assert config.upstreams["cache"].endpoint.origin == "store://h:8080/a%40b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('password_env = "MISSING"', "names an environment variable that is not set"),
        ('password_env = "EMPTY"', "names an environment variable that is empty"),
        ('password_file = "missing"', "cannot read the file it names: No such file or directory"),
        ('password_file = "empty"', "names a file whose first line is empty"),
        (
            'password_file = "empty"\npassword_env = "MISSING"',
            "password_env is also given; give only one of the two",
        ),
    ],
)
def test_a_password_that_is_not_there_is_said(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\nlater\n")
    (problem,) = problems(f'[upstreams.cache]\nurl = "store://h"\n{text}', tmp_path, EMPTY="")
    assert said in problem
    assert problem.startswith("3: upstreams.cache.password_")


# --- TLS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ('ca = "missing.pem"', "2: upstreams.cache.tls.ca: '{}/missing.pem': No such file or directory"),
        (
            'ca = "nothing.pem"',
            "2: upstreams.cache.tls.ca: '{}/nothing.pem' has no certificate in it: a PEM file has",
        ),
        (
            'cert = "ca.pem"',
            "2: upstreams.cache.tls.cert: '{}/ca.pem' has no private key in it; give tls key=",
        ),
        (
            'cert = "client.pem"\nkey = "other.pem"',
            "2: upstreams.cache.tls.cert: '{}/client.pem': not a certificate and its key (the key does not",
        ),
        (
            'ca = "locked.pem"',
            "2: upstreams.cache.tls.ca: '{}/locked.pem' has no certificate in it, but ENCRYPTED PRIVATE KEY",
        ),
        (
            'cert = "client.pem"\nkey = "locked.pem"',
            "3: upstreams.cache.tls.key: '{}/locked.pem': the key is encrypted; give one without a password",
        ),
        ('key = "ca.pem"', "2: upstreams.cache.tls.key: needs cert as well"),
        ("sni = 'x'", "2: upstreams.cache.tls.sni: unknown key"),
        ('server_name = "a\\u0007"', "1: upstreams.cache.tls: tls server_name='a\\x07' is not a host name"),
    ],
)
def test_tls_that_cannot_work_is_refused(tls: str, said: str, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    made.ca.rename(tmp_path / "ca.pem")
    made.encrypted_client.cert.rename(tmp_path / "client.pem")
    made.encrypted_client.key.rename(tmp_path / "locked.pem")
    made.server.key.rename(tmp_path / "other.pem")
    (tmp_path / "nothing.pem").write_text("nothing\n")
    (problem,) = problems(f'[upstreams.cache.tls]\n{tls}\n[upstreams.cache]\nurl = "stores://h"', tmp_path)
    assert problem.startswith(said.format(tmp_path))


def test_comments_in_a_file_of_authorities_may_be_in_any_encoding(tmp_path: Path) -> None:
    plain = certificates.make(tmp_path).ca.read_text()
    (tmp_path / "ca.pem").write_bytes(
        "# Műszaki tanúsítvány\n".encode() + plain.encode() + b"# Gr\xf6\xdfe\n"
    )
    config = read('[upstreams.it]\nurl = "stores://h"\ntls = { ca = "ca.pem" }', tmp_path)
    assert settings_of(config, "it") == {"tls": {"ca": plain}}


# --- what a request's upstream becomes by it --------------------------------------------------------

FOUR = """
    [upstreams.cache]
    url = "store://app@h/0"
    password_env = "CACHE"
    [upstreams.socket]
    url = "store://h2/0?db=1"
    password_env = "SOCKET"
    [upstreams.open]
    url = "store://h3"
    [upstreams.api]
    url = "page://u@h4"
    password_env = "API"
"""


@pytest.fixture
def four() -> Config:
    return read(FOUR, CACHE="c", SOCKET="s", API="a")


def test_a_name_becomes_what_it_stands_for(four: Config) -> None:
    cache = four.upstreams["cache"].endpoint
    assert four.resolve("store", "@cache", b"") == cache
    place, _, digest = cache.origin.partition("#")
    assert digest
    assert four.resolve("store-exclusive", "@cache?exclusive", b"") == (
        f"{place}?exclusive#{digest}",
        cache.settings,
    )


def test_a_url_gets_the_settings_of_its_upstream(four: Config) -> None:
    cache, socket = four.upstreams["cache"].endpoint, four.upstreams["socket"].endpoint
    assert four.resolve("store", "store://app@h:7/0", b"") == cache
    assert four.resolve("store", "store://h2:7/0?db=1&exclusive", b"") == (
        socket.origin.replace("?db=1", "?db=1&exclusive"),
        socket.settings,
    )


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("store", "store://other@h:7/0", b""),
        ("store", "store://app@h:7/1", b""),
        ("store", "store://h2:7/0?db=2&exclusive", b""),
        ("store", "store://app@h:7/0#0123", b"their own"),
        ("store", "store://h3:7/0", b""),
        ("other", "store://app@h:7/0", b""),
    ],
)
def test_what_is_no_upstreams_url_stays_as_it_is(four: Config, kind: str, name: str, settings: bytes) -> None:
    assert four.resolve(kind, name, settings) == (name, settings)


def test_a_url_with_two_passwords_means_neither() -> None:
    text = '[upstreams.a]\nurl = "store://h"\npassword_env = "A"\n[upstreams.b]\nurl = "store://h"\n'
    config = read(text + 'password_env = "B"', A="a", B="b")
    assert config.resolve("store", "store://h:7/0", b"") == ("store://h:7/0", b"")
    assert config.resolve("store", "@a", b"") != config.resolve("store", "@b", b"")


def test_where_an_answer_may_lead_to_a_url_only_the_name_has_the_password(four: Config) -> None:
    assert four.resolve("page", "@api", b"")[1] == msgpack.packb({"token": "a", "user": "u"})
    assert four.resolve("page", "page://h4:80", b"") == ("page://h4:80", b"")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (
            "store",
            "@cahce",
            "the broker's configuration has no upstream 'cahce'; its upstreams of kind 'store': "
            "cache, open, socket",
        ),
        ("udp", "@x?y", "the broker's configuration has no upstream 'x'; it has none of kind 'udp'"),
        (
            "page",
            "@cache",
            "upstream 'cache' (store://h:7) is for store and store-exclusive, not 'page'; its upstreams of "
            "kind 'page': api",
        ),
    ],
)
def test_a_name_that_stands_for_nothing_is_said_with_those_there_are(
    four: Config, kind: str, name: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        four.resolve(kind, name, b"")
    assert str(caught.value) == said


def test_without_a_configuration_there_are_no_names() -> None:
    with pytest.raises(UsageError, match="no upstream 'cache'; it has none of kind 'store'"):
        EMPTY.resolve("store", "@cache", b"")
    assert EMPTY.resolve("store", "store://h:7/0", b"") == ("store://h:7/0", b"")


def test_changes_are_said_by_name(four: Config) -> None:
    text = FOUR.replace("upstreams.open", "upstreams.new").replace('"SOCKET"', '"CACHE"')
    other = read(text + "\n[defaults]\nmax_response_bytes = 1", CACHE="c", API="a")
    said = changes(four, other)
    assert said.startswith("added: new; removed: open; changed: api, cache, new, socket".replace(", new", ""))
    assert said.endswith("; changed: the defaults")
    assert changes(four, four) == ""
    assert changes(four, read(FOUR, CACHE="changed", SOCKET="s", API="a")) == "changed: cache"


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ": No such file or directory"),
        (b"# caf\xe9\n", ":1: not UTF-8, as TOML must be"),
        (b"#" * (1 << 20) + b"#", ": larger than 1048576 bytes, so not a configuration file"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "reqpool.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config_file.load(path)
    assert str(caught.value) == f"{path}{said}"


def test_kinds_that_are_installed_are_found(tmp_path: Path) -> None:
    path = tmp_path / "reqpool.toml"
    path.write_bytes(b'\r\n[upstreams.names]\r\nurl = "dns://127.0.0.1"\r\nmax_in_flight = 5\r\n')
    names = config_file.load(path).upstreams["names"]
    assert (names.kinds, names.key, names.policy.max_in_flight) == (("dns",), "dns://127.0.0.1:53", 5)


def test_lines_are_those_where_statements_begin() -> None:
    found = lines(
        textwrap.dedent(
            '''\
            # [a]
            top.dotted = 1
            [a."b.c"]  # comment
            x = """
            [no.header]
            y = 1"""
            list = [
              1, # ]
              { z = 2 },
            ]
            "q u" = { in = { deep = "[x]" } }
            [[many]]
            k = 1
            [[many]]
            k = 2
            '''
        )
    )
    assert found == {
        ("top",): 2,
        ("top", "dotted"): 2,
        ("a",): 3,
        ("a", "b.c"): 3,
        ("a", "b.c", "x"): 4,
        ("a", "b.c", "list"): 7,
        ("a", "b.c", "q u"): 11,
        ("a", "b.c", "q u", "in"): 11,
        ("a", "b.c", "q u", "in", "deep"): 11,
        ("many",): 12,
        ("many", "k"): 13,
    }
    assert [line_of(found, path) for path in (("a", "b.c", "new"), ("new",), ("many", "k"))] == [3, 1, 13]


def test_the_example_in_the_docs_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_PASSWORD", PASSWORD)
    (tmp_path / "secrets").mkdir()
    for name in ("shop", "api-token"):
        (tmp_path / "secrets" / name).write_text(f"{PASSWORD}\n")
    certificates.make(tmp_path).ca.rename(tmp_path / "internal-ca.pem")
    example = Path(__file__).parents[3] / "docs/reqpool.example.toml"
    shutil.copy(example, tmp_path)
    config = config_file.load(tmp_path / example.name)
    assert {name: upstream.key for name, upstream in config.upstreams.items()} == {
        "cache": "redis://10.0.0.5:6379",
        "sessions": "redis://10.0.0.5:6379",
        "shop": "mysql://db.internal:3306",
        "api": "https://api.internal:443",
        "names": "dns://127.0.0.1:53",
    }
    assert config.upstreams["cache"].kinds == ("redis", "redis-exclusive")
    assert config.upstreams["shop"].policy == Policy(
        max_connections=10, connect_timeout_s=3.0, idle_timeout_s=30, lifetime_s=3600, pin_idle_timeout_s=30
    )
    # Whom an HTTP redirect leads to the URL has the authority to trust, and no token.
    name, settings = config.resolve("http", "https://api.internal:443", b"")
    assert name.startswith("https://api.internal:443#")
    assert msgpack.unpackb(settings)["tls"].keys() == {"ca", "server_name"}
    assert PASSWORD.encode() not in settings
    assert PASSWORD.encode() in config.resolve("http", "@api", b"")[1]


def test_whom_a_redirect_leads_to_a_url_has_no_certificate_of_the_pools(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    path = tmp_path / "reqpool.toml"
    tls = f'ca = "{made.ca}", cert = "{made.client.cert}", key = "{made.client.key}"'
    path.write_text(f'[upstreams.inner]\nurl = "https://inner.test"\ntls = {{ {tls} }}\n')
    config = config_file.load(path)
    for asked, has in (("https://inner.test:443", {"ca"}), ("@inner", {"ca", "cert", "key"})):
        _, settings = config.resolve("http", asked, b"")
        assert msgpack.unpackb(settings)["tls"].keys() == has


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [(UDP, "echo", "@echo"), (UDP, "127.0.0.1:7", "udp://127.0.0.1:7"), (TCP, "echo", "@echo")],
)
def test_an_address_may_be_a_name(kind: Kind, target: str, expected: str) -> None:
    assert kind.encode(target, b"hello")[0].origins == (expected,)


def test_name_servers_may_be_names() -> None:
    route, _, _ = DNS.encode(["names", "localhost", "::1"], "example.com")
    assert route.origins == ("@names", "dns://127.0.0.1:53", "dns://[::1]:53")
    with pytest.raises(UsageError, match="is not a numeric address"):
        DNS.encode("dns.example", "example.com")  # a host's: not yet, and no upstream's


@pytest.mark.parametrize("url", ["rediss://h", "https://h", "mysql://u@h/db"])
def test_a_certificate_that_was_replaced_is_a_change(url: str, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    path = tmp_path / "reqpool.toml"
    path.write_text(f'[upstreams.it]\nurl = "{url}"\n[upstreams.it.tls]\nca = "{made.ca.name}"\n')
    before = config_file.load(path)
    made.stranger_ca.rename(made.ca)
    assert changes(before, config_file.load(path)) == "changed: it"

"""What could be a password is shown nowhere: not in an error, not in what led to it, not on a terminal."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reqpool
from reqpool.kinds import Kind, dns, find, http, mysql, redis, tcp, udp
from reqpool_contract import broker_url
from reqpool_contract.errors import PoolError, RequestFacts
from reqpool_contract.masking import without_password, without_passwords
from reqpool_ops import cli, config_file, runtime, status
from reqpool_ops.requests import secured

SECRET = "S3cr3tpw"

URLS = [
    "{scheme}://u:%/x@h.test:1/0",
    "{scheme}://u:/%@h.test:1/0",
    "{scheme}://u:?%@h.test:1/0",
    "{scheme}://::ab/%@h.test:1",
    "{scheme}://:@%]x?y@h.test:1/0",
    "{scheme}://:@x|%?y@h.test:1/0",
    "u:/%:x@h.test:1",
    "{scheme}://:%/x@h.test:1/0",
    "{scheme}://u:x/%@h.test:1/0",
    "{scheme}://u:1/%@h.test:1",
    "{scheme}://u:%#x@h.test:1/0",
    "{scheme}://u:x#%@h.test:1/0",
    "{scheme}://u:1#%@h.test:1/0",
    "{scheme}://u:%?x@h.test:1/0",
    "{scheme}://u:%=?x@h.test:1/0",
    "{scheme}://u:%\\x@h.test:x/0",
    "{scheme}://u:%[x@h.test:x",
    "{scheme}://u:x[%]@h.test:x",
    "{scheme}://u:x@%/y@h.test:x",
    "{scheme}://u:%@h.test:1/0#x",
    "{scheme}://u:%@h.test:99999",
    "{scheme}://u:%@a..b",
    "{scheme}://u:%@h.test[::1]:1",
    "{scheme}://u:%",
    "{scheme}://:%",
    "{scheme}://u:%/",
    "{scheme}://u:%＠h.test:1",
    "{scheme}://u:% x@h.test:1",
    "{scheme}://u:%\n@h.test:1",
    "{scheme}://u:%\ud800@h.test:1",
    "{scheme}://u:%%ff@h.test",
    "{scheme}:/u:%@h.test:1/0",
    "{scheme}:///u:%@h.test:1/0",
    "{scheme}//u:%@h.test:1/0",
    "{scheme}:u:%@h.test:1/0",
    "u:%@h.test:1",
    "u:%@h.test",
    "u:%/x@h.test:1",
    ":%@h.test:1",
    "//u:%@h.test:1",
    "{scheme}:\\\\u:%@h.test:1",
    "elsewhere://u:%@h.test:1",
    "elsewhere://u:%/x@h.test:1",
    "{scheme}://h.test:1/0;password=%",
]
GOOD_FOR_HTTP = {
    "{scheme}://u:1/%@h.test:1",  # the path of a server called u, for all there is to tell
    "{scheme}://u:x@%/y@h.test:x",
    "{scheme}://u:%@h.test:1/0#x",
    "{scheme}://h.test:1/0;password=%",
}
OPTIONS = [
    "{scheme}://h.test:1/0?password=%",
    "{scheme}://h.test:1/0?a=b&pw=%",
    "{scheme}://h.test:1/?%",
    "{scheme}://h.test:1/0?password=a@%",
    "{scheme}://[::1]:1/0?password=a@%",
    "{scheme}://h.test/?a=1&password=a/@%",
    "{scheme}://u:x@h.test/?password=a@%",
    "{scheme}://h.test#a@%",
]


def refusal(act: Callable[[], Any], error: type[Exception] = PoolError) -> str:
    """Return the text of the error; none of what a traceback would print has the secret in it."""
    with pytest.raises(error) as caught:
        act()
    whole = "".join(traceback.format_exception(caught.value))
    assert SECRET not in whole.replace("act()", "")
    link: BaseException | None = caught.value
    while link is not None:
        assert SECRET not in str(link)
        assert SECRET not in repr(link)
        link = link.__cause__ or link.__context__
    return str(caught.value)


def asked(scheme: str, url: str) -> Callable[[], Any]:
    kinds: dict[str, tuple[Any, Any]] = {
        "redis": (redis.KIND, ("PING",)),
        "rediss": (redis.KIND, ("PING",)),
        "mysql": (mysql.KIND, "SELECT 1"),
        "http": (http.KIND, "GET"),
        "https": (http.KIND, "GET"),
        "dns": (dns.KIND, "a.test"),
        "udp": (udp.KIND, b""),
        "tcp": (tcp.KIND, b""),
    }
    kind, payload = kinds[scheme]
    return lambda: kind.encode(url, payload)


@pytest.mark.parametrize("form", URLS)
def test_a_refused_url_does_not_show_what_could_be_its_password(form: str) -> None:
    for scheme in ("redis", "rediss", "mysql", "http", "https", "dns", "udp", "tcp"):
        if scheme.startswith("http") and form in GOOD_FOR_HTTP:
            continue
        refusal(asked(scheme, form.format(scheme=scheme).replace("%", SECRET, 1)))


@pytest.mark.parametrize("scheme", ["redis", "mysql", "dns", "udp", "tcp"])
@pytest.mark.parametrize("form", OPTIONS)
def test_options_that_are_not_known_are_refused_and_their_values_not_shown(form: str, scheme: str) -> None:
    url = form.format(scheme=scheme).replace("%", SECRET)
    refusal(asked(scheme, url))
    refusal(asked(scheme, url.replace("//", "//me@")))


@pytest.mark.parametrize("scheme", ["redis", "mysql", "http", "dns", "udp", "tcp"])
@pytest.mark.parametrize("form", [*URLS, *OPTIONS])
def test_a_configuration_does_not_show_it_either(form: str, scheme: str, tmp_path: Path) -> None:
    url = form.format(scheme=scheme).replace("%", SECRET, 1)
    text = "".join(f"\\u{ord(one):04x}" if one in '\\\n"＠' else one for one in url).replace("\ud800", "")
    file = tmp_path / "reqpool.toml"
    file.write_text(f'[upstreams.it]\nurl = "{text}"\n', encoding="utf-8")
    refusal(lambda: config_file.load(file))


@pytest.mark.parametrize("scheme", ["redis", "mysql", "dns", "udp", "tcp"])
@pytest.mark.parametrize("end", ["#", "#0", "#a=b", "/0#x", "?#"])
def test_a_fragment_is_refused(end: str, scheme: str) -> None:
    user = "me@" if scheme == "mysql" else ""
    refusal(asked(scheme, f"{scheme}://{user}127.0.0.1:1{end}"))
    kind: Kind = find(scheme)
    refusal(lambda: kind.endpoint(f"{scheme}://{user}127.0.0.1:1{end}"))
    if scheme in ("dns", "udp", "tcp"):
        refusal(asked(scheme, f"127.0.0.1:1{end}"))


def test_the_hint_says_what_to_do() -> None:
    for url in ("redis://:a/b@h", "redis://:a#b@h", "redis://:a?b@h", "mysql://u:a/b@h/d", "http://u:a/b@h/"):
        said = refusal(asked(url.partition(":")[0], url))
        assert "percent-encode" in said, url
        assert "%2F" in said


def test_a_percent_encoded_password_is_taken() -> None:
    found = redis.KIND.endpoint("redis://u:a%2Fb%23c%3Fd%40e%25@h")
    assert found == redis.KIND.endpoint("redis://u@h", password="a/b#c?d@e%")


@pytest.mark.parametrize("path", ["/@scope/pkg", "/a:b@c", "/p?email=a@b.test", "/p#@top", "/#/@top"])
def test_an_at_sign_behind_the_host_is_http_like_any_other(path: str) -> None:
    assert http.KIND.encode(f"http://h.test:8080{path}", "GET")[0].origins == ("http://h.test:8080",)


@pytest.mark.parametrize(
    "location", ["ftp://u:%@h/x", "http://u:%@h:0/x", "http://u:%/x@h:x/", "http://[u:%@h", "//u:%@[h"]
)
def test_a_redirect_does_not_show_the_password_it_has(location: str) -> None:
    class Asked:
        note = http.KIND.encode(f"http://h.test/p?token={SECRET}", "GET")[2]
        trail = ()
        facts = RequestFacts("ab", 7, "http://h.test:80", 1, 0.0)
        route = http.KIND.encode("http://h.test/", "GET")[0]

    data = b"HTTP/1.1 302 Found\r\nLocation: " + location.replace("%", SECRET).encode() + b"\r\n\r\n"
    assert "http://h.test/p?***" in refusal(lambda: http.KIND.follow(data, Asked()))


@pytest.mark.parametrize(
    "act",
    [
        lambda url: http.KIND.encode("http://h/", url),
        lambda url: http.KIND.encode("http://h/", "GET", headers={f"Authorization: {SECRET}": ""}),
        lambda url: http.KIND.encode("http://h/", "GET", headers=[f"Authorization: {SECRET}"]),
        lambda url: http.KIND.encode("http://h/", "GET", params=[SECRET]),
        lambda url: http.KIND.encode(f"http://h/?token={SECRET}\n", "GET"),
        lambda url: http.KIND.encode("http://h/", "POST", files=[SECRET]),
        lambda url: mysql.KIND.encode("SELECT 1", url),
        lambda url: mysql.KIND.encode("mysql://u@h/", [url]),
        lambda url: mysql.KIND.encode([url], "SELECT 1"),
        lambda url: mysql.KIND.encode("mysql://u@h/", f"SET PASSWORD = '%{SECRET}'", params=(1,)),
        lambda url: redis.KIND.encode([url], ("PING",)),
        lambda url: redis.KIND.encode("redis://h", url),
        lambda url: redis.KIND.encode("redis://h", (f"AUTH {SECRET}",)),
        lambda url: redis.KIND.encode("redis://h", ("AUTH", [SECRET])),
        lambda url: redis.KIND.encode("redis://h", ("PING",), tls={"key": SECRET}),
        lambda url: redis.KIND.encode_multi("redis://h", url),
        lambda url: dns.KIND.encode([[url]], "a.test"),
        lambda url: dns.KIND.encode("127.0.0.1", f"{url}..b"),
        lambda url: dns.KIND.encode("127.0.0.1", [url]),
        lambda url: udp.KIND.encode([url], b""),
        lambda url: tcp.KIND.encode((url, 1), b""),
        lambda url: find(url),
        lambda url: broker_url.check(url),
        lambda url: broker_url.check(url.replace("redis", "tcp")),
        lambda url: reqpool.Pool(url.replace("redis", "tcp")),
        lambda url: reqpool.Pool(config=url),
        lambda url: reqpool.Tls(server_name=url),
        lambda url: dns.KIND.encode("127.0.0.1", f"{url}\ud800"),
        lambda url: reqpool.Tls(ca=f"-----BEGIN PRIVATE KEY-----\n{SECRET}").settings(),
        lambda url: broker_url.check(f" {url.replace('@h.test:1', '')}"),
        lambda url: status.fetch(url.replace("redis", "tcp")),
    ],
)  # fmt: skip
def test_arguments_in_the_wrong_place_do_not_show_it(act: Callable[[str], Any]) -> None:
    refusal(lambda: act(f"redis://u:{SECRET}@h.test:1/0"))


@pytest.mark.parametrize(
    "text",
    ['["%"]\n', '[upstreams."%"]\n', 'url = "http://h"\nmax_connections = "%"', "tls.server_name = '%'"],
)
def test_a_url_in_a_wrong_place_of_the_configuration_is_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "reqpool.toml"
    begin = "" if text.startswith("[") else "[upstreams.it]\n"
    file.write_text(begin + text.replace("%", f"redis://u:{SECRET}@h"))
    refusal(lambda: config_file.load(file))


def test_the_environment_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQPOOL_URL", f"tcp://u:{SECRET}@h.test:1")
    assert "cannot have a user name or a password" in refusal(reqpool.Pool)


@pytest.mark.parametrize(
    "url", ["tcp://u:%@127.0.0.1:5570", "tcp:/u:%@h:1", "u:%@h:1", "tcp://u:%/x@h:1", "tcp://h:%"]
)
def test_what_cannot_be_bound_does_not_show_it(url: str) -> None:
    refusal(lambda: runtime.check_bind(url.replace("%", SECRET)), runtime.CannotStart)


@pytest.mark.parametrize(
    "arguments",
    [
        ("redis", "redis://u:%/x@h", "PING"),
        ("redis", "redis:/u:%@h", "PING"),
        ("redis", "--password-file", "/dev/null", "u:%@h", "PING"),
        ("mysql", "mysql://u:%#x@h/", "SELECT 1"),
        ("http", "http://u:%?x@h/"),
        ("http", "http//u:%@h/"),
        ("http", "-H", "Authorization %", "-H", "u:%@h", "http://127.0.0.1:9/"),
        ("http", "-X", "http://u:%@h/", "http://127.0.0.1:9/"),
        ("udp", "u:%@h:1", "x"),
        ("tcp", "tcp://u:%@h:1", "x"),
        ("dns", "a.test", "--server", "u:%@h:1"),
        ("dns", "a.test", "redis://u:%@h:1"),
        ("redis://u:%@h", "PING"),
        ("dns", "a.test", "A", "redis://u:%@h"),
        ("status", "--url", "tcp://u:%@h:1"),
        ("status", "--url", "tcp:/u:%@h:1"),
        ("scale", "1", "--url", "tcp://u:%@127.0.0.1:1"),
        ("up", "--bind", "tcp://u:%@127.0.0.1:5570"),
        ("up", "redis://u:%@h"),
        ("up", "--config", "redis://u:%@h"),
        ("redis", "--password=%", "redis://h", "PING"),
        ("redis", "--url", "tcp://u:%@127.0.0.1:5570", "redis://h", "PING"),
    ],
)  # fmt: skip
def test_no_command_shows_it(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    with contextlib.suppress(SystemExit):  # argparse's
        assert cli.main([argument.replace("%", SECRET) for argument in arguments]) != 0
    said = "".join(capfd.readouterr())
    assert said
    assert SECRET not in said


def test_a_password_from_a_file_goes_into_no_broken_url() -> None:
    assert secured.with_password("redis://u/x@h", SECRET) == f"redis://:{SECRET}@u/x@h"
    refusal(asked("redis", secured.with_password("redis://u/x@h", SECRET)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:pw@h:6379/0", "redis://user:***@h:6379/0"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("REDIS://u:p@ss@[::1]:6379/0", "REDIS://u:***@[::1]:6379/0"),
        ("https://ghp_token@github.test/", "https://***@github.test/"),
        ("http://h.test:8080/a/b", "http://h.test:8080/a/b"),
        ("http://h.test/a?token=x#y", "http://h.test/a?***"),
        ("redis://u:p#w@h:6379/0", "redis://u:***@h:6379/0"),
        ("redis://:p?w@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://h:6379/0?password=p@w", "redis://h:***@***"),
        ("127.0.0.1:53", "127.0.0.1:53"),
        ("[::1]:53", "[::1]:53"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("127.0.0.1:pw", "127.0.0.1:***"),
        ("ipc:///run/reqpool/reqpool.sock", "ipc:///run/reqpool/reqpool.sock"),
        ("GE T", "GE T"),
        ("", ""),
        (None, "(NoneType)"),
    ],
)
def test_what_is_no_secret_is_shown(text: object, shown: str) -> None:
    assert without_password(text) == shown


def test_urls_in_a_sentence_are_masked() -> None:
    said = "argument COMMAND: invalid choice: 'redis://u:pw@h' (choose from up, status: a/b)"
    assert without_passwords(said) == "argument COMMAND: invalid choice: ***@h' (choose from up, status: a/b)"

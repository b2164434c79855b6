"""A real web server: nginx in a temporary folder, on free loopback ports.

with NginxServer() as nginx:
    pool.http("GET", f"{nginx.url}/small")
    pool.http("GET", f"{nginx.https_url()}/small", tls=reqpool.Tls(ca=str(nginx.certificates.ca)))
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.asked import BODIES

from .certificates import Certificates, Pair, make
from .ports import HOST, free_port
from .server import Server

USER, PASSWORD = "ann", "s@cret"
"""Who may see ``/private``."""
TEXT = b"".join(b"line %d of a text that packs well\n" % number for number in range(2_000))
"""``/text`` and, with bytes exchanged on the way and so in chunks, ``/chunked``."""

REDIRECTS = (301, 302, 303, 307, 308)
"""``/to/<one of these>`` leads to ``/said/<the same>``."""

_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    default_type text/plain;
    root {folder}/files;
    client_max_body_size 32m;
    # One packet for one answer: what is measured is not Nagle's algorithm.
    tcp_nodelay on;
    server {{ {listen} {locations} }}
    {https}
}}
"""
_HTTPS = """\
    server {{
        listen {host}:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
        {more} {locations}
    }}
"""
_LOCATIONS = """\
        location = /gzip { gzip on; gzip_min_length 1; gzip_types *; alias FOLDER/files/text; }
        location = /chunked { sub_filter "packs" "PACKS"; sub_filter_once off; sub_filter_types *;
                              alias FOLDER/files/text; }
        location = /none { return 204; }
        location = /teapot { return 418 "short and stout"; }
        location = /said { return 200 "$request_method|$args|$http_host|$http_authorization|$http_cookie"; }
        location = /sni { return 200 "$ssl_server_name|$ssl_client_s_dn|$ssl_protocol"; }
        location = /connection { return 200 "$connection"; }
        location = /private { auth_basic "x"; auth_basic_user_file FOLDER/users; alias FOLDER/files/small; }
        location = /close { keepalive_timeout 0; alias FOLDER/files/small; }
        location = /small-body { client_max_body_size 1k; alias FOLDER/files/small; }
        location = /status { stub_status; }
        location /put/ { dav_methods PUT DELETE; create_full_put_path on; }
        location /said/ { return 200 "$request_method|$content_length|$content_type"; }
        location = /relative/one { absolute_redirect off; return 302 ../said?relative; }
        location = /absolute { return 301 /said?absolute; }
        location = /loop { return 302 /loop; }
        location = /elsewhere { return 302 $arg_url; }
""" + "".join(f"location = /to/{status} {{ return {status} /said/{status}; }}\n" for status in REDIRECTS)


class NginxServer(Server):
    """A running nginx with one worker process.

    Args:
        hosts: further loopback addresses at which it speaks plain HTTP, at the same port.

    Attributes:
        address: ``"127.0.0.1:port"``, plain HTTP.
        port: the same port.
        certificates: what the https servers have; ``certificates.ca`` issued the good ones.
    """

    program = "nginx"
    package = "nginx-light"

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        super().__init__()
        self._hosts = hosts
        self.address = ""
        self.port = 0
        self._https_ports: dict[str, int] = {}
        self._certificates: Certificates | None = None

    @property
    def url(self) -> str:
        """``"http://127.0.0.1:port"``."""
        return f"http://{self.address}"

    def https_url(self, which: str = "server", host: str = HOST) -> str:
        """Return the URL of an https server.

        Args:
            which: its certificate, an attribute of :class:`Certificates`: ``server``, ``expired``,
                ``future``, ``wrong_name``, ``stranger``, ``self_signed``; or ``mutual``: the good one, and it
                demands a client's.
            host: as it is to stand in the URL.
        """
        return f"https://{host}:{self._https_ports[which]}"

    @property
    def certificates(self) -> Certificates:
        """See above.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._certificates is None:
            raise RuntimeError("nginx is not running")
        return self._certificates

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        folder = self.folder
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self._certificates = made = make(folder)
        pairs: Mapping[str, Pair] = {
            "server": made.server,
            "expired": made.expired,
            "future": made.future,
            "wrong_name": made.wrong_name,
            "stranger": made.stranger,
            "self_signed": made.self_signed,
            "mutual": made.server,
        }
        self._https_ports = {name: free_port() for name in pairs}
        self._write(folder, pairs)
        return [program, "-c", f"{folder}/conf", "-p", str(folder), "-e", "stderr"]

    def _write(self, folder: Path, pairs: Mapping[str, Pair]) -> None:
        (folder / "files" / "put").mkdir(parents=True)
        for path, body in {**BODIES, "/text": TEXT}.items():
            (folder / "files" / path[1:]).write_bytes(body)
        (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        locations = _LOCATIONS.replace("FOLDER", str(folder))
        listen = "".join(f"listen {host}:{self.port}; " for host in (HOST, *self._hosts))
        mutual = f"ssl_client_certificate {self.certificates.ca}; ssl_verify_client on;"
        https = [
            _HTTPS.format(
                host=HOST, port=self._https_ports[name], cert=pair.cert, key=pair.key, locations=locations,
                more=mutual if name == "mutual" else "",
            )
            for name, pair in pairs.items()
        ]  # fmt: skip
        # As root its worker would be somebody else, who may not read the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "conf").write_text(
            _CONFIG.format(user=user, folder=folder, listen=listen, locations=locations, https="".join(https))
        )

    def get(self, path: str, timeout_s: float = 5.0) -> bytes:
        """Ask it by a connection of the test's own; return the body.

        Raises:
            OSError: if it does not answer.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def connections(self) -> int:
        """Return how many connections it has, without the one that asks."""
        found = re.search(rb"Active connections: (\d+)", self.get("/status"))
        assert found is not None
        return int(found[1]) - 1

    def file(self, path: str) -> bytes:
        """Return a file that was put there.

        Raises:
            OSError: if there is none.
        """
        return (self.folder / "files" / path.lstrip("/")).read_bytes()

    def answers(self) -> bool:
        """See :class:`Server`."""
        try:
            return bool(self.get("/small", 1.0))
        except (OSError, http.client.HTTPException):  # nobody listens yet
            return False

"""A web file is fetched from where it was allowed and from nowhere that a server or a name points to."""

from __future__ import annotations

import contextlib
import http.server
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from support.answering import answering

from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.web.checked_http import CheckedHttp, is_allowed
from malmm.pipeline.web.media import open_source
from malmm.pipeline.web.media_roots import MediaRoots

CONTENT = bytes(range(256)) * 64


@dataclass
class Site:
    """A server on loopback: ``pages`` says how a path is answered, as a status and headers."""

    port: int
    pages: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def at(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(f"{self.headers['Host'].rpartition(':')[0]}{self.path}")
            status, headers = made.pages.get(self.path, (404, {}))
            body = b""
            if status in (200, 206):
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                body = CONTENT if status == 200 else CONTENT[first : last + 1]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(CONTENT)}")
            for name, value in headers.items():
                self.send_header(name, value)
            if "Transfer-Encoding" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # Whoever has what they wanted hangs up.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Site(server.server_port)
    with answering(server):
        yield made


@pytest.mark.parametrize("status", [200, 206])
def test_a_file_is_read_by_range(site: Site, status: int) -> None:
    site.pages["/films/a%20b.mp4?sig=1"] = (status, {"ETag": '"1"'})
    roots = MediaRoots([site.at("/films/")])
    for uri in (site.at("/films/a%20b.mp4?sig=1"), site.at("/films/a b.mp4?sig=1")):
        source = open_source(uri, roots)
        assert (source.held.size_bytes, source.held.tag is not None) == (len(CONTENT), True)
        assert b"".join(source.pieces(1000, 9000)) == CONTENT[1000:9000]


@pytest.mark.parametrize(
    ("headers", "tag"),
    [({}, None), ({"ETag": '"1"'}, '"'), ({"ETag": 'W/"1"'}, 'W/"'), ({"Last-Modified": "x"}, 'W/"')],
)
def test_a_weak_validator_stays_weak(site: Site, headers: dict[str, str], tag: str | None) -> None:
    site.pages["/v.mp4"] = (206, headers)
    held = open_source(site.at("/v.mp4"), MediaRoots([site.at("/")])).held
    assert held.tag is None if tag is None else (held.tag or "").startswith(tag)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "missing"), (410, "missing"), (401, "unreachable"), (403, "unreachable"), (500, "unreachable")],
)
def test_a_server_that_refuses_is_believed(site: Site, status: int, kind: str) -> None:
    site.pages["/v.mp4"] = (status, {})
    with pytest.raises(MediaError) as raised:
        open_source(site.at("/v.mp4"), MediaRoots([site.at("/")]))
    assert raised.value.kind == kind
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("location", "arrives"),
    [
        ("/films/other.mp4", True),
        ("other.mp4", True),
        # Out of the root, at a host that no root names there: this machine is no public host.
        ("/secret", False),
        ("http://127.0.0.1:{port}/films/other.mp4", False),
        ("http://127.1:{port}/films/other.mp4", False),
        ("http://2130706433:{port}/films/other.mp4", False),
        ("http://0x7f000001:{port}/films/other.mp4", False),
        ("http://[::ffff:127.0.0.1]:{port}/films/other.mp4", False),
        ("http://0.0.0.0:{port}/films/other.mp4", False),
        ("//127.0.0.1:{port}/secret", False),
        ("http://user@localhost:{port}/films/other.mp4", False),
        ("http://localhost:{port}/films/../secret", False),
        ("http://localhost:{port}/films/%2e%2e/secret", False),
        ("http://169.254.169.254/latest/meta-data/", False),
        ("http://[fe80::1]/", False),
        ("http://metadata.example/latest/", False),
        ("http://rebound.example:{port}/secret", False),
        ("https://localhost:99999/", False),
        ("file:///etc/passwd", False),
        ("ftp://localhost/v.mp4", False),
        ("gopher://localhost/", False),
        ("", False),
        ("/films/v.mp4", False),
    ],
)
def test_a_redirect_is_followed_where_that_is_allowed(site: Site, location: str, arrives: bool) -> None:
    site.pages |= {
        "/films/v.mp4": (302, {"Location": location.format(port=site.port)}),
        "/films/other.mp4": (206, {}),
        "/secret": (206, {}),
    }
    known = {
        "localhost": ["127.0.0.1"],
        "metadata.example": ["169.254.169.254"],
        # One of its addresses is public.
        "rebound.example": ["93.184.216.34", "127.0.0.1"],
    }
    web = CheckedHttp(
        MediaRoots([site.at("/films/")]).permits_address, lambda host, port: known.get(host, [host])
    )
    if arrives:
        assert web.info(site.at("/films/v.mp4"))["size"] == len(CONTENT)
        assert web.cat_file(site.at("/films/v.mp4"), 10, 20) == CONTENT[10:20]
    else:
        with pytest.raises(PermissionError):
            web.info(site.at("/films/v.mp4"))
        assert set(site.asked) == {"localhost/films/v.mp4"}


def test_a_connection_goes_to_the_address_that_was_checked(site: Site) -> None:
    """A name that resolves to another address at each look is looked up once a connection."""
    site.pages["/films/v.mp4"] = (206, {})
    looks: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1"]

    # The name does not exist: whoever looked it up again would fail.
    url = f"http://localhost:{site.port}/films/v.mp4"
    web = CheckedHttp(MediaRoots([site.at("/films/")]).permits_address, resolve)
    assert web.info(url)["size"] == len(CONTENT)
    assert looks == ["localhost"]

    away = CheckedHttp(lambda url: True, lambda host, port: ["127.0.0.1"])
    with pytest.raises(PermissionError, match="films"):
        away.info(f"http://films.invalid:{site.port}/films/v.mp4")


@pytest.mark.parametrize(
    ("address", "host", "named", "allowed"),
    [
        ("93.184.216.34", "example.org", False, True),
        ("2606:2800:220:1::1", "example.org", False, True),
        ("10.1.2.3", "nas.example.org", False, False),
        ("10.1.2.3", "nas.example.org", True, True),
        ("192.168.0.2", "nas", True, True),
        ("172.16.0.1", "nas", True, True),
        ("100.64.0.1", "nas", True, True),
        ("fd00::1", "nas", True, True),
        ("127.0.0.1", "localhost", True, True),
        ("::1", "localhost", True, True),
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "localhost", False, False),
        ("127.0.0.1", "nas.example.org", True, False),
        ("127.8.8.8", "nas.example.org", True, False),
        ("::1", "nas.example.org", True, False),
        ("::ffff:127.0.0.1", "nas.example.org", True, False),
        ("::ffff:10.0.0.1", "cdn.example.org", False, False),
        ("64:ff9b::7f00:1", "cdn.example.org", False, False),
        ("64:ff9b::5db8:d822", "cdn.example.org", False, True),
        ("2002:7f00:1::", "cdn.example.org", False, False),
        ("64:ff9b:1::a9fe:a9fe", "cdn.example.org", False, False),
        ("::7f00:1", "cdn.example.org", False, False),
        ("::ffff:0:7f00:1", "cdn.example.org", False, False),
        ("fec0::1", "cdn.example.org", False, False),
        ("::7f00:1", "nas.example.org", True, False),
        ("169.254.169.254", "nas.example.org", True, False),
        ("169.254.169.254", "169.254.169.254", True, True),
        ("fe80::1", "nas.example.org", True, False),
        ("fe80::1%eth0", "nas.example.org", True, False),
        ("0.0.0.0", "nas.example.org", True, False),  # noqa: S104
        ("::", "nas.example.org", True, False),
        ("224.0.0.1", "nas.example.org", True, False),
        ("ff02::1", "nas.example.org", True, False),
        ("240.0.0.1", "nas.example.org", True, False),
        ("no address", "nas.example.org", True, False),
    ],
)
def test_which_addresses_are_connected_to(address: str, host: str, named: bool, allowed: bool) -> None:
    assert is_allowed(address, host, named=named) == allowed

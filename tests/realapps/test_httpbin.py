"""httpbin under gunicorn through the product: what clients get is what they would get directly."""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from tests.realapps.compare import Answer, same
from tests.realapps.conftest import App

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BIG = bytes(range(256)) * 8192  # 2 MiB
FEATHER = base64.urlsafe_b64encode("naïve ☃".encode()).decode()

# fmt: off
# Method, target, request fields, body.
REQUESTS: tuple[tuple[str, str, Mapping[str, str], bytes], ...] = (
    *(("GET", target, {}, b"") for target in (
        "/get?a=1&b=%20x&a=2", "/headers", "/ip", "/user-agent", "/html", "/xml", "/json",
        "/robots.txt", "/encoding/utf8", "/image/png", "/image/jpeg", "/image/svg", "/image/webp",
        "/gzip", "/deflate", "/brotli", "/links/3/1", "/legacy",
        "/bytes/0?seed=1", "/bytes/1?seed=1", "/bytes/65537?seed=7",
        "/stream/0", "/stream/20", "/stream/100",
        "/stream-bytes/5000?seed=3&chunk_size=7", "/stream-bytes/100000?seed=3",
        "/range/1024?chunk_size=100", "/delay/0.3", "/drip?duration=0.2&numbytes=9&delay=0",
        f"/base64/{FEATHER}", "/etag/abc", "/cache/60",
        "/response-headers?X-One=1&X-Two=2&X-One=3", "/response-headers?X-Empty=",
        "/redirect/3", "/relative-redirect/2", "/absolute-redirect/2",
        "/redirect-to?url=http%3A%2F%2Felsewhere.example%2F&status_code=308",
        "/cookies/set?first=1&second=2", "/cookies/delete?first=", "/anything/a%2Fb/c?d=e",
        "/basic-auth/me/secret", "/bearer", "/nowhere", "/static/favicon.ico",
    )),
    *(("GET", f"/status/{code}", {}, b"") for code in (
        200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402,
        403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 428,
        429, 431, 451, 500, 501, 502, 503, 504, 505,
    )),
    ("GET", "/cookies", {"Cookie": "first=1; second=two words"}, b""),
    ("GET", "/basic-auth/me/secret", {"Authorization": "Basic bWU6c2VjcmV0"}, b""),
    ("GET", "/bearer", {"Authorization": "Bearer token"}, b""),
    ("GET", "/range/1000", {"Range": "bytes=10-99"}, b""),
    ("GET", "/range/1000", {"Range": "bytes=-100"}, b""),
    ("GET", "/range/1000", {"Range": "bytes=2000-"}, b""),
    ("GET", "/etag/abc", {"If-None-Match": "abc"}, b""),
    ("GET", "/etag/abc", {"If-Match": "other"}, b""),
    ("GET", "/cache", {"If-Modified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
    ("GET", "/headers", {"Connection": "close, X-Hop", "X-Stays": "a, b"}, b""),
    ("GET", "/anything", {"X-Long": "v" * 7000}, b""),
    *(("HEAD", target, {}, b"") for target in ("/get", "/bytes/100?seed=1", "/stream/5", "/gzip", "/nowhere")),
    ("OPTIONS", "/get", {}, b""),
    ("OPTIONS", "/anything", {"Origin": "http://a.example", "Access-Control-Request-Method": "PUT"}, b""),
    ("TRACE", "/anything", {}, b""),
    ("DELETE", "/delete", {}, b""),
    ("DELETE", "/anything", JSON, b'{"why": "a body"}'),
    ("PATCH", "/patch", JSON, b'{"a": [1, 2]}'),
    ("PUT", "/put", {"Content-Type": "text/plain"}, "snow ☃".encode()),
    ("PUT", "/put", {}, b""),
    ("POST", "/post", FORM, b"a=1&b=two+words&a=%E2%98%83"),
    ("POST", "/post", JSON, b'{"nested": {"null": null}}'),
    ("POST", "/post", {"Content-Encoding": "gzip", **JSON}, gzip.compress(b'{"a": 1}', mtime=0)),
    ("POST", "/post", {"Content-Type": "application/octet-stream"}, bytes(range(256))),
    ("POST", "/status/201", {}, b"x"),
    ("POST", "/delay/0.2", FORM, b"a=1"),
    ("POST", "/get", {}, b"x"),
)
# fmt: on


@pytest.fixture(scope="module")
def clients(httpbin: App) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Straight to httpbin, and through the product; each keeps its connections."""
    headers = {"Host": httpbin.host}
    with (
        httpx.Client(base_url=f"http://{httpbin.direct}", headers=headers, timeout=20) as direct,
        httpx.Client(base_url=f"http://{httpbin.proxied}", headers=headers, timeout=20) as proxied,
    ):
        yield direct, proxied


def ask(
    client: httpx.Client, method: str, target: str, fields: Mapping[str, str], body: Any
) -> Answer:
    """The answer as it was on the wire, not decoded."""
    client.cookies.clear()
    with client.stream(method, target, headers=dict(fields), content=body or None) as response:
        content = b"".join(response.iter_raw())
    raw = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return Answer(response.status_code, response.reason_phrase, raw, content)


def name(value: object) -> str:
    return str(value)[:60] if isinstance(value, str) else ""


@pytest.mark.parametrize(("method", "target", "fields", "body"), REQUESTS, ids=name)
def test_an_answer_is_the_direct_one(
    clients: tuple[httpx.Client, httpx.Client],
    method: str,
    target: str,
    fields: Mapping[str, str],
    body: bytes,
) -> None:
    direct, proxied = (ask(client, method, target, fields, body) for client in clients)
    assert direct.status < 500 or target.startswith("/status/5"), "httpbin itself is broken"
    same(direct, proxied)


def test_a_large_body_comes_back_as_it_was_sent(clients: tuple[httpx.Client, httpx.Client]) -> None:
    direct, proxied = (ask(client, "POST", "/post", {}, BIG) for client in clients)
    same(direct, proxied)
    sent = base64.b64encode(BIG).decode()
    assert json.loads(proxied.body)["data"] == f"data:application/octet-stream;base64,{sent}"


def test_a_chunked_upload_arrives_whole(clients: tuple[httpx.Client, httpx.Client]) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(BIG), 100_003):
            yield BIG[start : start + 100_003]

    direct, proxied = (ask(client, "POST", "/anything", {}, pieces()) for client in clients)
    same(direct, proxied)
    assert json.loads(proxied.body)["headers"]["Transfer-Encoding"] == "chunked"


def test_a_stream_is_not_gathered_first(clients: tuple[httpx.Client, httpx.Client]) -> None:
    with clients[1].stream("GET", "/drip?duration=1&numbytes=5&delay=0") as response:
        came_s = [time.monotonic() for piece in response.iter_raw() if piece]
    assert len(came_s) >= 3
    assert came_s[-1] - came_s[0] > 0.5


# ---------------------------------------------------------------- requests


def both(httpbin: App) -> Iterator[tuple[requests.Session, str]]:
    for address in (httpbin.direct, httpbin.proxied):
        with requests.Session() as session:
            session.headers["Host"] = httpbin.host
            yield session, f"http://{address}"


def test_requests_follows_redirects(httpbin: App) -> None:
    found = []
    for session, url in both(httpbin):
        answer = session.get(f"{url}/relative-redirect/3", timeout=20)
        found.append(([one.status_code for one in answer.history], answer.json()["url"]))
    assert found[0] == found[1] == ([302, 302, 302], f"http://{httpbin.host}/get")


def test_requests_keeps_cookies(httpbin: App) -> None:
    found = []
    for session, url in both(httpbin):
        session.get(f"{url}/cookies/set?first=1&second=2", timeout=20)
        session.get(f"{url}/cookies/delete?first=", timeout=20)
        found.append((dict(session.cookies), session.get(f"{url}/cookies", timeout=20).json()))
    assert found[0] == found[1] == ({"second": "2"}, {"cookies": {"second": "2"}})


@pytest.mark.parametrize("coding", ["gzip", "deflate", "brotli"])
def test_requests_decodes(httpbin: App, coding: str) -> None:
    direct, proxied = (session.get(f"{url}/{coding}", timeout=20) for session, url in both(httpbin))
    key = {"gzip": "gzipped", "deflate": "deflated", "brotli": "brotli"}[coding]
    assert proxied.json()[key] is True
    assert proxied.headers["Content-Encoding"] == direct.headers["Content-Encoding"]


def test_requests_uploads_files(httpbin: App) -> None:
    found = []
    for session, url in both(httpbin):
        files = {
            "file": ("snow ☃.bin", BIG[:300_000], "image/png"),
            "small": ("a.txt", b"text", "text/plain"),
        }
        answer = session.post(f"{url}/post", files=files, data={"field": "☃"}, timeout=20).json()
        found.append((answer["files"], answer["form"]))
    assert found[0] == found[1]
    assert found[0][0]["small"] == "text"


def test_requests_reads_a_stream_line_by_line(httpbin: App) -> None:
    found = []
    for session, url in both(httpbin):
        with session.get(f"{url}/stream/20", stream=True, timeout=20) as answer:
            found.append([json.loads(line)["id"] for line in answer.iter_lines()])
    assert found[0] == found[1] == list(range(20))


def test_a_request_has_one_id_at_both_ends(httpbin: App) -> None:
    """What the client is told is what the application sees."""
    with httpx.Client(base_url=f"http://{httpbin.proxied}", timeout=20) as client:
        answer = client.get("/headers?show_env=1")
    seen = answer.json()["headers"]
    assert seen["X-Request-Id"] == answer.headers["X-Request-Id"]
    assert seen["Via"] == "1.1 turnout"
    assert seen["X-Forwarded-For"] == "127.0.0.1"
    assert seen["X-Forwarded-Host"] == httpbin.proxied


# ---------------------------------------------------------------- curl

CURL = shutil.which("curl")
curl_only = pytest.mark.skipif(CURL is None, reason="curl is not installed")


def curl(app: App, tmp_path: Path, target: str, *arguments: str) -> list[list[Answer]]:
    """For the direct one and the proxied one: the heads that curl got, the last with the body."""
    found = []
    for address in (app.direct, app.proxied):
        head, body = tmp_path / "head", tmp_path / "body"
        body.unlink(missing_ok=True)
        assert CURL is not None
        subprocess.run(
            [CURL, "-sS", "-q", "--max-time", "20", "-D", str(head), "-o", str(body),
             "--connect-to", f"::{address}", *arguments, f"http://{app.host}{target}"],
            check=True, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        # With -I it writes the head there.
        content = body.read_bytes() if body.exists() and "-I" not in arguments else b""
        heads = head.read_bytes().split(b"\r\n\r\n")[:-1]
        answers = [parsed(one, b"") for one in heads[:-1]]
        found.append([*answers, parsed(heads[-1], content)])
    return found


def parsed(head: bytes, body: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    _, status, *reason = first.split(" ", 2)
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(status), reason[0] if reason else "", fields, body)


@curl_only
@pytest.mark.parametrize(
    "arguments",
    [
        ("/get?a=b",),
        ("/stream/20",),
        ("/stream-bytes/100000?seed=2",),
        ("/gzip", "--compressed"),
        ("/redirect/2", "-L"),
        ("/range/1000", "-r", "100-199"),
        ("/bytes/1000?seed=1", "-I"),
        ("/status/204",),
        ("/cookies/set?a=1", "-L", "-b", ""),
        ("/anything", "-X", "DELETE"),
        ("/anything", "-X", "OPTIONS"),
        ("/post", "-d", "a=1&b=2"),
        ("/post", "-F", "field=value", "-F", "file=@/etc/hostname;filename=name"),
        ("/basic-auth/me/secret", "-u", "me:secret"),
        ("/put", "-T", __file__),
        ("/put", "-T", __file__, "-H", "Transfer-Encoding: chunked"),
        ("/get", "--http1.0"),
        ("/stream/20", "--http1.0"),
        ("/stream-bytes/100000?seed=2", "--http1.0"),
        ("/bytes/70000?seed=2", "--http1.0"),
        ("/get", "--http1.0", "-H", "Connection: keep-alive"),
        ("/post", "--http1.0", "-d", "a=1&b=2"),
        ("/bytes/100?seed=1", "-I", "--http1.0"),
        ("/status/500",),
    ],
    ids=" ".join,
)
def test_curl_gets_the_direct_answer(
    httpbin: App, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    multipart = "-F" in arguments  # its boundary is another one each time
    target, *options = arguments
    direct, proxied = curl(httpbin, tmp_path, target, *options)
    assert len(direct) == len(proxied)
    for one, other in zip(direct, proxied, strict=True):
        if multipart:
            mine, its = (json.loads(answer.body) for answer in (one, other))
            assert (mine["form"], mine["files"]) == (its["form"], its["files"])
        else:
            same(one, other)


@curl_only
def test_curl_waits_for_100_continue(httpbin: App, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(BIG)
    # Longer than it may take: without the interim answer curl would wait for all of it.
    options = ("-H", "Expect: 100-continue", "--expect100-timeout", "15")
    began_s = time.monotonic()
    direct, proxied = curl(httpbin, tmp_path, "/anything", "--data-binary", f"@{upload}", *options)
    assert time.monotonic() - began_s < 15
    assert [one.status for one in direct] == [one.status for one in proxied] == [100, 200]
    seen = [json.loads(answers[-1].body)["form"] for answers in (direct, proxied)]
    assert (
        hashlib.sha256(repr(seen[0]).encode()).digest()
        == hashlib.sha256(repr(seen[1]).encode()).digest()
    )


@curl_only
def test_curl_uses_one_connection_for_several(httpbin: App, tmp_path: Path) -> None:
    assert CURL is not None
    urls = [f"http://{httpbin.host}/bytes/{size}?seed=1" for size in (0, 10, 70_000, 3)]
    outputs = [word for url in urls for word in ("-o", "/dev/null", url)]
    said = subprocess.run(
        [CURL, "-sS", "-q", "--connect-to", f"::{httpbin.proxied}", "-w", "%{num_connects} %{size_download}\n", *outputs],
        check=True, capture_output=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    assert said.splitlines() == ["1 0", "0 10", "0 70000", "0 3"]

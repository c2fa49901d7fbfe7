"""Files of ill will, given back; and requests for parts of them."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import httpx
import pytest

from tests.support.census import unchanged
from tests.support.files import png
from tests.support.server import Boatload
from tests.support.wire import File, Json, finished, problem, send

HARDENED: Final = {
    "content-type": "application/octet-stream",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-store",
}
SCRIPT: Final = b"<script>alert(document.domain)</script>"
FILES: Final = {
    "page.html": ("text/html", b"<!doctype html>" + SCRIPT),
    "drawing.svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg">' + SCRIPT + b"</svg>"),
    "picture.png": ("image/png", png(30, 20) + SCRIPT),
    "paper.pdf": ("application/pdf", b"%PDF-1.7\n" + b"<html>" + SCRIPT),
    "style.css": ("text/css", b"*{background:url(//example.org)}"),
    "module.js": ("text/javascript", b"alert(1)"),
    "page.xhtml": ("application/xhtml+xml", b'<html xmlns="http://www.w3.org/1999/xhtml">' + SCRIPT + b"</html>"),
}
SIZE: Final = 100_000


@pytest.fixture
def upload(client: httpx.Client) -> Json:
    """A file of SIZE bytes, processed."""
    answer = send(client, "/v1/uploads", File("a.bin", bytes(range(250)) * (SIZE // 250))).json()
    finished(client, answer["url"])
    found: Json = answer["results"][0]["upload"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_html_svg_and_polyglot_files_are_served_only_as_attachments_sandboxed(client: httpx.Client, name: str) -> None:
    declared, content = FILES[name]
    answer = send(client, "/v1/uploads", File(name, content, declared))
    assert answer.status_code == 201
    assert finished(client, answer.json()["url"])["status"] == "completed"
    url = answer.json()["results"][0]["upload"]["content_url"]
    for served in (
        client.get(url, headers={"accept": "text/html", "sec-fetch-dest": "document"}),
        client.get(url, headers={"range": "bytes=0-10"}),
        client.head(url),
        client.get(url, headers={"if-none-match": "*"}),
    ):
        sent = {field: value for field, value in served.headers.items() if field in HARDENED}
        assert sent == HARDENED, served.status_code
        assert served.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
        assert served.headers.get_list("content-type") == ["application/octet-stream"]
    assert client.get(url).content == content


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=0-1,5-6", "bytes=" + ",".join(["0-"] * 1300), "bytes=0-0," * 800 + "1-1", "lines=1-2"]
)
def test_many_ranges_and_reversed_ones_get_the_whole_file_once(client: httpx.Client, upload: Json, asked: str) -> None:
    answer = client.get(upload["content_url"], headers={"range": asked})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 10}", "bytes=999999999999999999-"])
def test_a_range_past_the_end_is_416(server: Boatload, client: httpx.Client, upload: Json, asked: str) -> None:
    with unchanged(server):
        answer = client.get(upload["content_url"], headers={"range": asked})
        problem(answer, 416, "range-not-satisfiable")
        assert answer.headers["content-range"] == f"bytes */{SIZE}"


def test_ranges_in_several_fields_are_several(server: Boatload, upload: Json) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.putrequest("GET", upload["content_url"])
        for asked in ("bytes=0-0", "bytes=5-6"):
            connection.putheader("Range", asked)
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, len(answer.read())) == (200, SIZE)


@pytest.fixture
def photo(client: httpx.Client) -> Iterator[str]:
    """The thumbnail of a picture with a page behind it."""
    answer = send(client, "/v1/uploads", File("x.html", FILES["picture.png"][1], "text/html")).json()
    finished(client, answer["url"])
    return client.get(f"/v1/uploads/{answer['results'][0]['upload']['id']}").json()["thumbnail_url"]


def test_a_thumbnail_is_webp_sandboxed_whatever_the_file_is_called(client: httpx.Client, photo: str) -> None:
    answer = client.get(photo, headers={"range": "bytes=0-1"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert {field: answer.headers[field] for field in HARDENED if field not in {"content-type", "cache-control"}} == {
        field: value for field, value in HARDENED.items() if field not in {"content-type", "cache-control"}
    }
    assert answer.content.startswith(b"RIFF")
    assert SCRIPT not in answer.content

"""What could be read in two ways is refused and ends its connection; what an RFC wants accepted is (RFC 9112).

Behind each probe comes a request of its own: whoever was led astray would answer it.
"""

import json

import pytest

from tests.support.raw import talk
from tests.support.server import Boatload
from tests.support.wire import PROBLEM, problem

POST = b"POST /v1/batches HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EMPTY = b"2\r\n{}\r\n0\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + body


def get(line: bytes = b"GET /healthz HTTP/1.1", *fields: bytes) -> bytes:
    return b"\r\n".join([line, *(fields or (b"Host: a",)), b"", b""])


REFUSED = {
    "content-length-then-transfer-encoding": POST + b"Content-Length: 2\r\n" + CHUNKED + b"\r\n" + EMPTY,
    "transfer-encoding-then-content-length": POST + CHUNKED + b"Content-Length: 2\r\n\r\n" + EMPTY,
    "two-content-lengths-that-agree": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two-content-lengths-that-differ": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "content-length-as-a-list": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "content-length-with-plus": POST + b"Content-Length: +2\r\n\r\n{}",
    "content-length-with-minus": POST + b"Content-Length: -2\r\n\r\n{}",
    "content-length-with-a-space-within": POST + b"Content-Length: 2 0\r\n\r\n{}",
    "content-length-in-hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "content-length-with-a-letter": POST + b"Content-Length: 2a\r\n\r\n{}",
    "content-length-with-an-underscore": POST + b"Content-Length: 2_0\r\n\r\n{}",
    "content-length-empty": POST + b"Content-Length: \r\n\r\n{}",
    "content-length-past-64-bits": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "transfer-encoding-chunked-identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + EMPTY,
    "transfer-encoding-identity-chunked": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + EMPTY,
    "transfer-encoding-gzip-chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + EMPTY,
    "transfer-encoding-chunked-chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + EMPTY,
    "transfer-encoding-twice": POST + CHUNKED + CHUNKED + b"\r\n" + EMPTY,
    "transfer-encoding-identity-then-chunked": POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + EMPTY,
    "transfer-encoding-xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + EMPTY,
    "transfer-encoding-identity": POST + b"Transfer-Encoding: identity\r\n\r\n" + EMPTY,
    "transfer-encoding-quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + EMPTY,
    "transfer-encoding-with-a-parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + EMPTY,
    "transfer-encoding-behind-a-vertical-tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + EMPTY,
    "transfer-encoding-before-a-space-and-colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + EMPTY,
    "transfer-encoding-behind-a-fold": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + EMPTY,
    "transfer-encoding-empty": POST + b"Transfer-Encoding: \r\n\r\n" + EMPTY,
    "transfer-encoding-in-http-1-0": chunked(EMPTY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunk-size-that-is-no-number": chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-with-0x": chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-with-plus": chunked(b"+2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-with-minus": chunked(b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-behind-a-space": chunked(b" 2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-before-a-space": chunked(b"2 \r\n{}\r\n0\r\n\r\n"),
    "chunk-size-empty": chunked(b"\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-past-64-bits": chunked(b"10000000000000002\r\n{}\r\n0\r\n\r\n"),
    "chunk-that-is-longer-than-its-size": chunked(b"2\r\n{}}\r\n0\r\n\r\n"),
    "chunk-size-ended-by-a-bare-lf": chunked(b"2\n{}\r\n0\r\n\r\n"),
    "chunk-size-ended-by-a-bare-cr": chunked(b"2\r{}\r\n0\r\n\r\n"),
    "chunk-ended-by-a-bare-lf": chunked(b"2\r\n{}\n0\r\n\r\n"),
    "chunk-extension-with-a-bare-lf": chunked(b"2;a\n{}\r\n0\r\n\r\n"),
    "chunk-extension-with-a-quoted-lf": chunked(b'2;a="\n"\r\n{}\r\n0\r\n\r\n'),
    "chunk-extension-over-long": chunked(b"2;" + b"a" * 1_000_000 + b"\r\n{}\r\n0\r\n\r\n"),
    "trailer-content-length": chunked(b"2\r\n{}\r\n0\r\nContent-Length: 50\r\n\r\n"),
    "header-folded": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X: b", b" c"),
    "first-header-folded": get(b"GET /healthz HTTP/1.1", b" Host: a"),
    "header-ended-by-a-bare-lf": b"GET /healthz HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "head-in-bare-lf": b"GET /healthz HTTP/1.1\nHost: a\n\n",
    "head-in-bare-cr": b"GET /healthz HTTP/1.1\rHost: a\r\r",
    "bare-cr-in-a-value": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X: b\rc"),
    "nul-in-a-value": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X: b\0c"),
    "nul-in-a-name": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X\0: b"),
    "control-character-in-a-value": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X: b\x01"),
    "space-before-the-colon": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X : b"),
    "no-colon": get(b"GET /healthz HTTP/1.1", b"Host: a", b"X"),
    "no-name": get(b"GET /healthz HTTP/1.1", b"Host: a", b": b"),
    "no-host": get(b"GET /healthz HTTP/1.1", b"X: b"),
    "two-hosts": get(b"GET /healthz HTTP/1.1", b"Host: a", b"Host: a"),
    "host-empty": get(b"GET /healthz HTTP/1.1", b"Host:"),
    "host-with-a-space": get(b"GET /healthz HTTP/1.1", b"Host: a b"),
    "host-with-a-path": get(b"GET /healthz HTTP/1.1", b"Host: a/b"),
    "host-with-a-user": get(b"GET /healthz HTTP/1.1", b"Host: u@a"),
    "host-with-a-port-that-is-none": get(b"GET /healthz HTTP/1.1", b"Host: a:b"),
    "host-as-a-list": get(b"GET /healthz HTTP/1.1", b"Host: a, b:80:90"),
    "authority-form": get(b"GET a:80 HTTP/1.1"),
    "connect": get(b"CONNECT a:80 HTTP/1.1"),
    "connect-to-a-path": get(b"CONNECT /healthz HTTP/1.1"),
    "asterisk-form-of-get": get(b"GET * HTTP/1.1"),
    "absolute-form-of-another-scheme": get(b"GET ftp://a/healthz HTTP/1.1"),
    "absolute-form-with-a-user": get(b"GET http://u@a/healthz HTTP/1.1"),
    "fragment-in-the-target": get(b"GET /healthz#a HTTP/1.1"),
    "space-in-the-target": get(b"GET /health z HTTP/1.1"),
    "nul-in-the-target": get(b"GET /health\0z HTTP/1.1"),
    "eight-bits-in-the-target": get(b"GET /health\xc3\xa4 HTTP/1.1"),
    "space-behind-the-version": get(b"GET /healthz HTTP/1.1 "),
    "tabs-in-the-request-line": get(b"GET\t/healthz\tHTTP/1.1"),
    "http-0-9": b"GET /healthz\r\n\r\n",
    "http-0-9-by-name": get(b"GET /healthz HTTP/0.9"),
    "http-1-2": get(b"GET /healthz HTTP/1.2"),
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "http-2-by-name": get(b"GET /healthz HTTP/2.0"),
    "http-3-by-name": get(b"GET /healthz HTTP/3.0"),
    "http-01-1": get(b"GET /healthz HTTP/01.1"),
    "http-in-lower-case": get(b"GET /healthz http/1.1"),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "method-unknown": get(b"FETCH /healthz HTTP/1.1"),
    "method-in-lower-case": get(b"get /healthz HTTP/1.1"),
    "method-empty": get(b" /healthz HTTP/1.1"),
}
"""All 400 malformed-request."""
TOO_LARGE = {
    "request-line-of-9-kb": (get(b"GET /" + b"a" * 9000 + b" HTTP/1.1"), 414, "target-too-long"),
    "request-line-without-an-end": (b"GET /" + b"a" * 100_000, 431, "head-too-large"),
    "one-header-of-40-kb": (get(b"GET /healthz HTTP/1.1", b"Host: a", b"X: " + b"a" * 40_000), 431, "head-too-large"),
    "header-without-an-end": (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 1_000_000, 431, "head-too-large"),
    "a-million-headers": (b"GET /healthz HTTP/1.1\r\n" + b"a:b\r\n" * 1_000_000, 431, "head-too-large"),
    "line-ends-without-a-request": (b"\r\n" * 100_000, 431, "head-too-large"),
}
ACCEPTED = {
    # RFC 9112 §7: names of codings are case-insensitive; §5: white space around values is no part of them.
    "transfer-encoding-in-capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + EMPTY, 201),
    "transfer-encoding-behind-a-tab": (POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + EMPTY, 201),
    "content-length-between-spaces": (POST + b"Content-Length:  2  \r\n\r\n{}", 201),
    "names-in-capitals": (POST.replace(b"Content-Type", b"CONTENT-TYPE") + b"CONTENT-LENGTH: 2\r\n\r\n{}", 201),
    # RFC 9112 §7.1: a size may have leading zeros; extensions that are not known are passed over, as trailers may be.
    "chunk-size-with-leading-zeros": (chunked(b"0002\r\n{}\r\n000\r\n\r\n"), 201),
    "chunk-extension": (chunked(b'2;a=b;c="d"\r\n{}\r\n0\r\n\r\n'), 201),
    "trailers": (chunked(b"2\r\n{}\r\n0\r\nX-Checksum: a\r\n\r\n"), 201),
    # RFC 9112 §3.2.2: the target counts, not the Host; a URL without a path means the root.
    "absolute-form": (get(b"GET http://b:80/healthz?c HTTP/1.1"), 200),
    "absolute-form-in-capitals": (get(b"GET HTTP://b/healthz HTTP/1.1"), 200),
    "absolute-form-without-a-path": (get(b"GET http://b HTTP/1.1"), None),
    "asterisk-form-of-options": (get(b"OPTIONS * HTTP/1.1"), None),
    # RFC 9112 §2.2: an empty line before a request is passed over; §3: words may be further apart.
    "empty-lines-before-a-request": (b"\r\n\r\n" + get(), 200),
    "two-spaces-in-the-request-line": (get(b"GET  /healthz HTTP/1.1"), 200),
    # RFC 9110 §7.8: an offer of another protocol may be passed over, and curl makes one.
    "upgrade": (get(b"GET /healthz HTTP/1.1", b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c"), 200),
    "upgrade-with-a-body": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", 201),
    "upgrade-with-chunks": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CHUNKED + b"\r\n" + EMPTY, 201),
    "host-that-is-an-address": (get(b"GET /healthz HTTP/1.1", b"Host: [::1]:8000"), 200),
    "body-of-get": (get(b"GET /healthz HTTP/1.1", b"Host: a", b"Content-Length: 2") + b"{}", 200),
}


@pytest.mark.parametrize("probe", REFUSED.values(), ids=list(REFUSED))
async def test_what_is_no_proper_request_is_refused_and_ends_its_connection(server: Boatload, probe: bytes) -> None:
    (answer,) = await talk(server.port, probe + SECOND)
    problem(answer, 400, "malformed-request")
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(("probe", "status", "slug"), TOO_LARGE.values(), ids=list(TOO_LARGE))
async def test_what_is_too_large_is_refused_and_ends_its_connection(
    server: Boatload, probe: bytes, status: int, slug: str
) -> None:
    (answer,) = await talk(server.port, probe)
    problem(answer, status, slug)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("probe", "status"), ACCEPTED.values(), ids=list(ACCEPTED))
async def test_what_is_a_request_is_answered_and_so_is_the_one_behind_it(
    server: Boatload, probe: bytes, status: int | None
) -> None:
    first, second = await talk(server.port, probe + SECOND)
    if status:
        assert first.status_code == status, first.text
    else:
        assert first.headers["content-type"] == PROBLEM
        assert first.status_code in {404, 405}
    assert second.json() == {"status": "ok"}


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_a_probe_in_pieces_is_the_same_probe(server: Boatload, size: int) -> None:
    for probe, count in ((REFUSED["two-content-lengths-that-agree"], 1), (ACCEPTED["upgrade-with-a-body"][0], 2)):
        sent = probe + SECOND
        pieces = (sent[start : start + size] for start in range(0, len(sent), size))
        assert len(await talk(server.port, *pieces)) == count


async def test_http_1_0_needs_no_host_and_is_not_told_to_continue(server: Boatload) -> None:
    (answer,) = await talk(server.port, b"GET /healthz HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
    assert answer.status_code == 200


async def test_a_refusal_waits_for_the_answers_before_it(server: Boatload) -> None:
    batch = b"POST /v1/batches HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    *whole, last = await talk(server.port, batch * 3 + b"FETCH / HTTP/1.1\r\n\r\n" + SECOND)
    assert [answer.status_code for answer in whole] == [201] * 3
    assert len({json.loads(answer.content)["id"] for answer in whole}) == 3
    problem(last, 400, "malformed-request")


async def test_a_pipeline_of_thousands_is_not_taken_as_a_whole(server: Boatload) -> None:
    *whole, last = await talk(server.port, get() * 5000)
    assert {answer.status_code for answer in whole} == {200}
    problem(last, 400, "malformed-request")

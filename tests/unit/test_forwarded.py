"""Where clients see the service, from header fields that anybody may send."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.forwarded import client_address, public_base

PLACE = r"(https?://[A-Za-z0-9.:\[\]-]+)?(/[A-Za-z0-9._~-]+)*"


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"forwarded": "proto=https;host=a.example"}, "https://a.example"),
        ({"forwarded": 'host="[2001:db8::1]:8443";proto=http'}, "http://[2001:db8::1]:8443"),
        ({"forwarded": 'for="_a,b";host=a.example;proto=https, host=b.example;proto=http'}, "https://a.example"),
        ({"forwarded": 'host="a.ex\\ample";proto=https'}, "https://a.example"),
        ({"forwarded": "host=a.example"}, ""),
        ({"forwarded": "host=a.example", "x-forwarded-proto": "https"}, "https://a.example"),
        ({"forwarded": "proto=https", "host": "own.example"}, "https://own.example"),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "a.example,b.example"}, "https://a.example"),
        ({"x-forwarded-proto": "ftp", "x-forwarded-host": "a.example"}, ""),
        ({"x-forwarded-prefix": "/a/b/"}, "/a/b"),
        ({"x-forwarded-prefix": "a"}, ""),
        ({"x-forwarded-prefix": "//a.example"}, ""),
        (
            {"x-forwarded-proto": "https", "x-forwarded-host": "a.example", "x-forwarded-prefix": "/a b"},
            "https://a.example",
        ),
    ],
    ids=str,
)
def test_a_trusted_proxy_is_believed_as_far_as_it_makes_sense(headers: dict[str, str], base: str) -> None:
    assert public_base(Headers(headers), trust_proxy=True) == base
    assert public_base(Headers(headers), trust_proxy=False) == ""


_VALUES = st.text(st.characters(max_codepoint=255), max_size=40)


@given(forwarded=_VALUES, proto=st.sampled_from(["https", "http"]) | _VALUES, host=_VALUES, prefix=_VALUES)
def test_whatever_is_sent_makes_an_address_or_none(forwarded: str, proto: str, host: str, prefix: str) -> None:
    raw = [
        (name.encode(), value.encode("latin-1"))
        for name, value in (
            ("forwarded", forwarded),
            ("x-forwarded-proto", proto),
            ("x-forwarded-host", host),
            ("x-forwarded-prefix", prefix),
        )
    ]
    assert re.fullmatch(PLACE, public_base(Headers(raw=raw), trust_proxy=True))


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "203.0.113.9"),
        ({"x-forwarded-for": "192.0.2.1, 10.0.0.1"}, "192.0.2.1"),
        ({"x-forwarded-for": "192.0.2.1:8080"}, "192.0.2.1"),
        ({"x-forwarded-for": "2001:db8::1"}, "2001:db8::1"),
        ({"forwarded": 'for="[2001:db8::1]:8080";proto=https, for=10.0.0.1'}, "2001:db8::1"),
        ({"forwarded": "for=192.0.2.1", "x-forwarded-for": "192.0.2.2"}, "192.0.2.1"),
        ({"forwarded": "for=unknown"}, "203.0.113.9"),
        ({"forwarded": "for=_hidden"}, "203.0.113.9"),
        ({"x-forwarded-for": "<script>"}, "203.0.113.9"),
    ],
)
def test_a_request_comes_from_where_a_trusted_proxy_says(headers: dict[str, str], address: str) -> None:
    assert str(client_address(Headers(headers), "203.0.113.9", trust_proxy=True)) == address
    assert str(client_address(Headers(headers), "203.0.113.9", trust_proxy=False)) == "203.0.113.9"


def test_a_peer_without_an_address_comes_from_nowhere() -> None:
    assert client_address(Headers({}), "", trust_proxy=True) is None


@given(st.text(max_size=60))
def test_whatever_a_proxy_says_is_an_address_or_nothing(said: str) -> None:
    headers = Headers(raw=[(b"forwarded", b"for=" + said.encode()), (b"x-forwarded-for", said.encode())])
    assert client_address(headers, "203.0.113.9", trust_proxy=True)

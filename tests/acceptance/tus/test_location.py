"""Location (RFC 9110 §10.2.2): relative, or as a trusted proxy says, and never what any client may make it."""

import pytest

from tests.support.tus import Tus, identity

FORWARDED = [
    {"forwarded": "proto=https;host=files.example.org"},
    {"forwarded": 'for=192.0.2.1;proto=https;host="files.example.org", for=10.0.0.1;host=inner;proto=http'},
    {"forwarded": "Proto=HTTPS; Host=files.example.org"},
    {"x-forwarded-proto": "https", "x-forwarded-host": "files.example.org"},
    {"x-forwarded-proto": "https, http", "x-forwarded-host": "files.example.org, inner"},
    {"x-forwarded-proto": "https", "host": "files.example.org"},
    {"forwarded": "for=192.0.2.1", "x-forwarded-proto": "https", "x-forwarded-host": "files.example.org"},
]


@pytest.mark.parametrize("headers", FORWARDED, ids=str)
def test_a_trusted_proxy_says_where_clients_see_us(small_tus: Tus, headers: dict[str, str]) -> None:
    location = small_tus.post(upload_length=1, **headers).headers["location"]
    assert location == f"https://files.example.org/v1/tus/{identity(location)}"
    assert small_tus.offset(f"/v1/tus/{identity(location)}") == 0


def test_a_trusted_proxy_may_put_us_under_a_prefix(small_tus: Tus) -> None:
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "example.org:8443", "x-forwarded-prefix": "/files/"}
    assert (
        small_tus.post(upload_length=1, **headers)
        .headers["location"]
        .startswith("https://example.org:8443/files/v1/tus/")
    )
    assert small_tus.post(upload_length=1, x_forwarded_prefix="/files").headers["location"].startswith("/files/v1/tus/")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"x-forwarded-host": "evil.example"},
        {"x-forwarded-proto": "javascript", "x-forwarded-host": "evil.example"},
        {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example/path"},
        {"x-forwarded-proto": "https", "x-forwarded-host": "user@evil.example"},
        {"x-forwarded-proto": "https", "x-forwarded-host": "a b"},
        {"x-forwarded-prefix": "//evil.example"},
        {"forwarded": 'proto=https;host="evil.example\\"x"'},
    ],
    ids=str,
)
def test_what_makes_no_address_leaves_it_relative(small_tus: Tus, headers: dict[str, str]) -> None:
    location = small_tus.post(upload_length=1, **({"host": "localhost"} | headers)).headers["location"]
    if "x-forwarded-proto" in headers or "forwarded" in headers:
        assert "evil" not in location
    assert location == f"/v1/tus/{identity(location)}"


@pytest.mark.parametrize("headers", [*FORWARDED, {"host": "evil.example"}, {"x-forwarded-prefix": "/x"}], ids=str)
def test_without_a_trusted_proxy_nobody_says_it(tus: Tus, headers: dict[str, str]) -> None:
    location = tus.post(upload_length=1, **headers).headers["location"]
    assert location == f"/v1/tus/{identity(location)}"


def test_a_part_is_named_as_the_proxy_has_it(small_tus: Tus) -> None:
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "files.example.org", "x-forwarded-prefix": "/up"}
    part = small_tus.post(b"hello", upload_length=5, upload_concat="partial", **headers).headers["location"]
    answer = small_tus.post(upload_concat=f"final;{part}", **headers)
    assert answer.status_code == 201
    assert small_tus.content(answer.headers["location"]) == b"hello"

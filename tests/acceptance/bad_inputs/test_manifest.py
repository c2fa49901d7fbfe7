"""Manifests that cannot be taken as a whole, and so are not taken at all."""

import json

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILE_BYTES, opened
from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import Json, problem


def entry(ref: str = "a", **changes: object) -> Json:
    return {"ref": ref, "filename": f"{ref}.bin", "size_bytes": 0} | changes


WRONG: dict[str, tuple[list[Json] | str, int, str]] = {
    "the same ref twice": ([entry("a"), entry("a")], 422, "invalid-manifest"),
    "negative size": ([entry(size_bytes=-1)], 422, "invalid-request"),
    "size as text": ([entry(size_bytes="5")], 422, "invalid-request"),
    "half a byte": ([entry(size_bytes=1.5)], 422, "invalid-request"),
    "size past 2^63": ([entry(size_bytes=2**70)], 422, "invalid-request"),
    "size over the maximum": ([entry(size_bytes=MAX_FILE_BYTES + 1)], 413, "file-too-large"),
    "short digest": ([entry(sha256="abc")], 422, "invalid-request"),
    "digest that is not hex": ([entry(sha256="g" * 64)], 422, "invalid-request"),
    "digest as number": ([entry(sha256=5)], 422, "invalid-request"),
    "10,001 entries": ([entry(str(number)) for number in range(10_001)], 422, "invalid-request"),
    "unknown field": ([entry(unknown=1)], 422, "invalid-request"),
    "missing fields": ([{"ref": "a"}], 422, "invalid-request"),
    "no list": ("entries", 422, "invalid-request"),
    "empty ref": ([entry("", filename="x")], 422, "invalid-request"),
    "ref with a line break": ([entry("a\n")], 422, "invalid-request"),
    "ref with NUL": ([entry("a\0")], 422, "invalid-request"),
    "long ref": ([entry("x" * 256, filename="x")], 422, "invalid-request"),
    "filename that leads elsewhere": ([entry(filename="../x")], 422, "invalid-filename"),
    "empty filename": ([entry(filename="")], 422, "invalid-filename"),
    "type with a line break": ([entry(content_type="a\r\nb")], 422, "invalid-request"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_manifest_with_the_same_ref_twice_negative_size_bad_digest_or_over_10_000_entries(
    server: Boatload, client: httpx.Client, kind: str
) -> None:
    entries, status, slug = WRONG[kind]
    url = opened(client)
    with unchanged(server):
        for given in (entries, [entry("fine"), *entries][:10_001]) if isinstance(entries, list) else (entries,):
            problem(client.post(f"{url}/manifest", json={"entries": given}), status, slug)


@pytest.mark.parametrize("body", [b"[" * 10_000, b'{"entries":' * 5000, b'{"seal": NaN}', b"{", b'{"entries": null}'])
def test_a_manifest_that_makes_no_sense(server: Boatload, client: httpx.Client, body: bytes) -> None:
    url = opened(client)
    with unchanged(server):
        answer = client.post(f"{url}/manifest", content=body, headers={"content-type": "application/json"})
        problem(answer, 422, "invalid-request")


def test_a_manifest_of_17_mib(server: Boatload, client: httpx.Client) -> None:
    url = opened(client)
    body = json.dumps({"entries": [], "x": "y" * (17 << 20)}).encode()
    with unchanged(server):
        answer = client.post(f"{url}/manifest", content=body, headers={"content-type": "application/json"})
        problem(answer, 413, "request-too-large")


@pytest.mark.parametrize("start", [b'{"entries":[{', b"{"])
def test_a_manifest_of_a_million_values(server: Boatload, client: httpx.Client, start: bytes) -> None:
    url = opened(client)
    body = start + b",".join(b'"%x":0' % number for number in range(1_000_000))
    with unchanged(server):
        answer = client.post(f"{url}/manifest", content=body, headers={"content-type": "application/json"})
        problem(answer, 413, "request-too-large")

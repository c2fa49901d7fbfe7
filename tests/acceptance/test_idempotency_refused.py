"""Keys that are none, requests that are refused under a good one, and what tus and `push` make of theirs."""

from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest

from tests.support.documented import check_status
from tests.support.faulty_proxy import Fault, faulty_proxy
from tests.support.pushing import Pusher
from tests.support.server import Boatload
from tests.support.tus import BODY, VERSION, checksum, metadata
from tests.support.wire import FORM, File, multipart, problem, send

GOOD: Final = ["k", "k" * 255, "a key, with = signs; and so on", '"k"', '"' + "k" * 255 + '"', r'"a \" b \\ c"']
BAD: Final = ["", "k" * 256, '"' + "k" * 256 + '"', '""', '"k', '"a"b"', '"a\\b"', "k\u00e9", "a\tb"]
POSTS: Final = {
    "/v1/batches": {"json": {}},
    "/v1/uploads": {"content": multipart(File("a", b"x")), "headers": FORM},
    "/v1/tus": {"headers": VERSION | {"upload-length": "1"}},
}


def post(client: httpx.Client, url: str, *keys: str | bytes) -> httpx.Response:
    sent = dict(POSTS[url])
    headers = [*sent.pop("headers", {}).items(), *(("idempotency-key", key) for key in keys)]
    encoded = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    return client.post(url, headers=encoded, **sent)  # type: ignore[arg-type]  # what httpx takes


@pytest.mark.parametrize("url", POSTS)
@pytest.mark.parametrize("key", [*BAD, b"k\xff"])
def test_what_is_no_key_answers_400(client: httpx.Client, url: str, key: str | bytes) -> None:
    assert problem(post(client, url, key), 400, "invalid-header")["header"] == "Idempotency-Key"


@pytest.mark.parametrize("url", POSTS)
def test_two_keys_answer_400(client: httpx.Client, url: str) -> None:
    problem(post(client, url, "a", "a"), 400, "invalid-header")


@pytest.mark.parametrize("route", ["/v1/batches/{}/seal", "/v1/batches/{}/cancel", "/v1/webhooks/rotate"])
def test_a_body_that_is_too_large_to_be_told_by_its_key_answers_413(client: httpx.Client, route: str) -> None:
    """Also where none is looked at without a key."""
    url = route.format(client.post("/v1/batches").json()["id"])
    answer = client.post(url, content=bytes((16 << 20) + 1), headers={"idempotency-key": str(uuid4())})
    problem(answer, 413, "request-too-large")
    check_status(answer)


@pytest.mark.parametrize("key", GOOD)
def test_a_key_is_any_text_with_or_without_quotes(client: httpx.Client, key: str) -> None:
    unique = f"{uuid4()}"
    given = f'"{unique}{key[1:]}' if key.startswith('"') else unique + key
    if len(key) > 250:
        given = f'"{unique}{key[37:]}' if key.startswith('"') else unique + key[36:]
    first = post(client, "/v1/batches", given)
    assert first.status_code == 201
    assert post(client, "/v1/batches", given).content == first.content
    if key == "k":
        assert post(client, "/v1/batches", f'"{given}"').content == first.content


def test_a_request_that_was_refused_leaves_its_key_free(client: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    problem(client.post("/v1/batches", json={"expected_uploads": "x"}, headers=key), 422, "invalid-request")
    problem(client.post(f"/v1/batches/{uuid4()}/seal", headers=key), 404, "not-found")
    problem(client.post("/v1/uploads", content=b"", headers=FORM | key), 400, "no-files")
    problem(client.post("/v1/uploads", content=b"x", headers=FORM | key), 400, "malformed-multipart")
    problem(client.post("/v1/uploads", json={}, headers=key), 415, "unsupported-media-type")
    batch = client.post("/v1/batches", json={"expected_uploads": 1}).headers["location"]
    two = [File("a", b"x"), File("b", b"x")]
    problem(send(client, f"{batch}/uploads", *two, **key), 409, "more-than-expected")
    first = send(client, f"{batch}/uploads", two[0], **key)
    assert first.status_code == 201
    problem(send(client, f"{batch}/uploads", two[0]), 409, "batch-closed")
    again = send(client, f"{batch}/uploads", two[0], **key)
    assert (again.status_code, again.content) == (201, first.content)


def test_a_key_means_nothing_to_other_methods(client: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    batch = client.post("/v1/batches", headers=key).headers["location"]
    assert client.put(f"{batch}/files/a", content=b"x", headers=key).status_code == 201
    assert client.get(batch, headers={"idempotency-key": ""}).status_code == 200
    assert client.delete(batch, headers=key).status_code == 204


def test_a_tus_creation_goes_on_where_the_first_one_ended(client: httpx.Client) -> None:
    data = b"0123456789"
    headers = VERSION | {
        "upload-length": "10",
        "upload-metadata": metadata(filename="a.txt"),
        "idempotency-key": str(uuid4()),
    }
    refused = client.post(
        "/v1/tus", content=data[:4], headers=headers | BODY | {"upload-checksum": checksum("sha1", b"other")}
    )
    assert refused.status_code == 460
    begun = client.post("/v1/tus", content=data[:4], headers=headers | BODY)
    assert (begun.status_code, begun.headers["upload-offset"]) == (201, "4")
    again = client.post("/v1/tus", headers=headers)
    assert (again.status_code, again.headers["upload-offset"]) == (201, "4")
    assert again.headers["location"] == begun.headers["location"]
    url = begun.headers["location"]
    done = client.patch(url, content=data[4:], headers=VERSION | BODY | {"upload-offset": "4"})
    assert done.headers["upload-offset"] == "10"
    assert client.post("/v1/tus", headers=headers).headers["upload-offset"] == "10"

    assert client.delete(url, headers=VERSION).status_code == 204
    another = client.post("/v1/tus", headers=headers)
    assert (another.status_code, another.headers["upload-offset"]) == (201, "0")
    assert another.headers["location"] != url


def test_parts_are_put_together_once(client: httpx.Client) -> None:
    key = str(uuid4())
    urls = []
    for number in range(2):
        headers = (
            VERSION | BODY | {"upload-length": "1", "upload-concat": "partial", "idempotency-key": f"{key}{number}"}
        )
        made = [client.post("/v1/tus", content=b"x", headers=headers) for _ in range(2)]
        assert [one.headers["upload-offset"] for one in made] == ["1", "1"]
        (url,) = {one.headers["location"] for one in made}
        urls.append(url)
    final = VERSION | {"upload-concat": f"final;{' '.join(urls)}", "idempotency-key": key}
    answers = [client.post("/v1/tus", headers=final) for _ in range(2)]
    assert [(one.status_code, one.headers["upload-offset"]) for one in answers] == [(201, "2"), (201, "2")]
    assert len({one.headers["location"] for one in answers}) == 1


def test_push_opens_one_batch_though_the_answer_is_lost(server: Boatload, tmp_path: Path) -> None:
    folder = tmp_path / str(uuid4())
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with faulty_proxy(server.port, Fault("POST", lose_answer=True)) as proxy, server.client() as client:
        pushed = Pusher(proxy.url, tmp_path / "state").run(folder)
        assert pushed.code == 0, pushed.stderr
        assert "POST lost" in proxy.seen
        labels = [one["label"] for one in client.get("/v1/batches?limit=1000").json()["items"]]
    assert sum(folder.name in (label or "") for label in labels) == 1

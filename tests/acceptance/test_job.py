"""The whole job as a user does it: files in by one request, polling until it is done, the bytes back."""

import base64
import hashlib
import json
import random
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tests.support.missing import lacking
from tests.support.server import Boatload
from tests.support.wire import File, Json, all_uploads, counts, finished, send, verdicts

A = random.Random(1).randbytes(100_000)
B = "Grüße\n".encode()
HARDENED = {
    "content-type": "application/octet-stream",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-store",
    "accept-ranges": "bytes",
}


@pytest.fixture
def stored(each_client: httpx.Client) -> Json:
    """An upload of A, processed."""
    answer = send(each_client, "/v1/uploads", File("folder/a.bin", A, "image/png"))
    assert answer.status_code == 201
    finished(each_client, answer.json()["url"])
    upload: Json = each_client.get(f"/v1/uploads/{answer.json()['results'][0]['upload']['id']}").json()
    return upload


def test_two_files_sent_with_curl_complete_and_come_back(each_server: Boatload, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        lacking("there is no curl here")
    (tmp_path / "a.bin").write_bytes(A)
    (tmp_path / "b.txt").write_bytes(B)
    files = [word for name in ("a.bin", "b.txt") for word in ("-F", f"files=@{tmp_path / name}")]
    command = [curl, "--silent", "--show-error", "--noproxy", "*", *files, f"{each_server.url}/v1/uploads"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert [(result["index"], result["filename"]) for result in answer["results"]] == [(0, "a.bin"), (1, "b.txt")]
    assert verdicts(answer["results"]) == ["taken"] * 2
    with each_server.client() as client:
        batch = finished(client, answer["url"])
        assert batch["status"] == "completed"
        assert counts(batch) == (2, 2, 2, 0)
        assert batch["progress_percentage"] == 100
        assert batch["total_bytes"] == batch["received_bytes"] == len(A) + len(B)
        assert batch["sealed"]
        for data, result in zip((A, B), answer["results"], strict=True):
            content = client.get(result["upload"]["content_url"])
            assert content.content == data
            assert result["upload"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_answer_tells_everything_about_what_was_stored(each_client: httpx.Client) -> None:
    answer = send(each_client, "/v1/uploads", File("b.txt", B, "text/plain"))
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["location"] == body["url"] == body["batch"]["url"] == f"/v1/batches/{body['batch']['id']}"
    upload = body["results"][0]["upload"]
    assert UUID(upload["id"]).version == UUID(body["batch"]["id"]).version == 7
    assert body["results"][0]["problem"] is None
    batch = finished(each_client, body["url"])
    read = each_client.get(f"/v1/uploads/{upload['id']}").json()
    assert read["batch_id"] == batch["id"]
    assert (read["filename"], read["content_type"], read["detected_type"]) == ("b.txt", "text/plain", "text/plain")
    assert (read["size_bytes"], read["received_bytes"], read["status"]) == (len(B), len(B), "completed")
    assert (read["attempts"], read["error"], read["ref"], read["metadata"]) == (1, None, None, {})
    assert all_uploads(each_client, body["url"]) == [read]
    assert batch["created_at"] <= batch["started_at"] <= batch["sealed_at"] <= batch["completed_at"]
    assert batch["created_at"].endswith("Z")


def test_content_has_hardened_headers_and_a_digest(each_client: httpx.Client, stored: Json) -> None:
    answer = each_client.get(stored["content_url"])
    assert answer.content == A
    digest = hashlib.sha256(A)
    assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-disposition"] == "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"


def test_head_of_content_is_its_get_without_the_bytes(each_client: httpx.Client, stored: Json) -> None:
    get = each_client.get(stored["content_url"])
    head = each_client.head(stored["content_url"])
    own = {"date", "x-request-id"}
    assert head.status_code == 200
    assert head.content == b""
    assert {n: v for n, v in head.headers.items() if n not in own} == {
        n: v for n, v in get.headers.items() if n not in own
    }
    assert head.headers["content-length"] == str(len(A))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=99999-", 99_999, 100_000),
        ("bytes=5-1000000", 5, 100_000),
        ("bytes=-1", 99_999, 100_000),
        ("bytes=-1000000", 0, 100_000),
    ],
)
def test_one_range_is_answered_with_that_range(
    each_client: httpx.Client, stored: Json, asked: str, start: int, end: int
) -> None:
    answer = each_client.get(stored["content_url"], headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == A[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(A)}"
    assert answer.headers["content-length"] == str(end - start)
    assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED


def test_a_range_counts_only_if_the_bytes_are_still_those(each_client: httpx.Client, stored: Json) -> None:
    etag = f'"{stored["sha256"]}"'
    same = each_client.get(stored["content_url"], headers={"range": "bytes=0-9", "if-range": etag})
    other = each_client.get(stored["content_url"], headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert (same.status_code, same.content) == (206, A[:10])
    assert (other.status_code, other.content) == (200, A)


def test_what_has_not_changed_answers_304(each_client: httpx.Client, stored: Json) -> None:
    for url in (f"/v1/batches/{stored['batch_id']}", f"/v1/uploads/{stored['id']}", stored["content_url"]):
        first = each_client.get(url)
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = each_client.get(url, headers={"if-none-match": known})
            assert (again.status_code, again.content) == (304, b""), (url, known)
            assert again.headers["etag"] == etag
        other = each_client.get(url, headers={"if-none-match": '"other"'})
        assert (other.status_code, other.content) == (200, first.content)


def test_etag_of_a_batch_is_its_version_and_every_change_moves_it(each_client: httpx.Client) -> None:
    opened = each_client.post("/v1/batches")
    url = opened.headers["location"]
    assert opened.headers["etag"] == f'"{opened.json()["version"]}"'
    send(each_client, f"{url}/uploads", File("a", B))
    changed = each_client.get(url, headers={"if-none-match": opened.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["version"] > opened.json()["version"]
    assert changed.headers["etag"] == f'"{changed.json()["version"]}"'


def test_retry_after_is_said_while_a_batch_is_unfinished_only(each_client: httpx.Client) -> None:
    opened = each_client.post("/v1/batches")
    url = opened.headers["location"]
    assert int(opened.headers["retry-after"]) >= 1
    assert int(each_client.get(url).headers["retry-after"]) >= 1
    each_client.post(f"{url}/seal")
    assert "retry-after" not in each_client.get(url).headers


def test_an_empty_file_is_a_file(each_client: httpx.Client) -> None:
    answer = send(each_client, "/v1/uploads", File("empty", b""))
    assert answer.status_code == 201
    assert finished(each_client, answer.json()["url"])["status"] == "completed"
    upload = each_client.get(f"/v1/uploads/{answer.json()['results'][0]['upload']['id']}").json()
    assert (upload["size_bytes"], upload["sha256"]) == (0, hashlib.sha256().hexdigest())
    assert upload["detected_type"] == "application/x-empty"
    content = each_client.get(upload["content_url"])
    assert (content.status_code, content.content, content.headers["content-length"]) == (200, b"", "0")


def test_names_are_labels_and_come_back_as_they_were_sent(each_client: httpx.Client) -> None:
    names = ["näme \N{SPARKLES}.txt", "a/b/c.jpg", "x\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", "<img src=x>", "a;b='c'.txt"]
    answer = send(each_client, "/v1/uploads", *(File(name, B) for name in names))
    assert answer.status_code == 201
    assert [result["filename"] for result in answer.json()["results"]] == names
    for name, result in zip(names, answer.json()["results"], strict=True):
        shown = each_client.get(result["upload"]["content_url"]).headers["content-disposition"]
        assert shown.startswith("attachment; filename=")
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.count('"') == 2
        assert httpx.URL(f"http://x/{shown.partition(chr(39) * 2)[2]}").path == "/" + name.rpartition("/")[2]


def test_the_same_name_twice_is_two_uploads(each_client: httpx.Client) -> None:
    answer = send(each_client, "/v1/uploads", File("same", b"one"), File("same", b"two"), File("same", b"two"))
    ids = {result["upload"]["id"] for result in answer.json()["results"]}
    assert len(ids) == 3
    assert counts(finished(each_client, answer.json()["url"])) == (3, 3, 3, 0)

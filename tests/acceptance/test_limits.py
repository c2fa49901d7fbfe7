"""Limits that the operator sets hold to the byte and to the file, and each upload may have an object of its own."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import FORM, File, Text, counts, finished, multipart, problem, send, verdicts

LARGEST_FILE = 1000
LARGEST_REQUEST = 10_000


@pytest.fixture(scope="module")
def strict_server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(
        database_url=postgres_servers.get("18").create_migrated(),
        max_file_bytes=LARGEST_FILE,
        max_request_bytes=LARGEST_REQUEST,
        max_parts=5,
        max_files_per_batch=3,
        pack_file_bytes=0,
    ) as server:
        yield server


@pytest.fixture
def client(strict_server: Boatload) -> Iterator[httpx.Client]:
    with strict_server.client() as opened:
        yield opened


def test_a_file_over_the_limit_is_refused_and_the_others_are_kept(client: httpx.Client) -> None:
    fits, too_large = File("fits", b"x" * LARGEST_FILE), File("too-large", b"x" * (LARGEST_FILE + 1))
    answer = send(client, "/v1/uploads", fits, too_large, File("after", b"x"))
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert verdicts(results) == ["taken", "rejected", "taken"]
    assert results[1]["problem"]["type"] == "/problems/file-too-large"
    assert results[1]["problem"]["status"] == 413
    assert counts(finished(client, answer.json()["url"])) == (3, 3, 2, 1)
    assert client.get(results[2]["upload"]["content_url"]).content == b"x"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_over_the_limit_answers_413(client: httpx.Client, *, chunked: bool) -> None:
    files = [File("a", b"x" * 900, name=f"{n}") for n in range(3)]
    padding = LARGEST_REQUEST - len(multipart(*files, Text("padding", "")))
    for excess in (0, 1):
        body = multipart(*files, Text("padding", "x" * (padding + excess)))
        assert len(body) == LARGEST_REQUEST + excess
        pieces = (body[start : start + 3000] for start in range(0, len(body), 3000))
        answer = client.post("/v1/uploads", content=pieces if chunked else body, headers=FORM)
        if excess:
            problem(answer, 413, "request-too-large")
        else:
            assert answer.status_code == 201, answer.text


def test_more_parts_than_allowed_answer_413(client: httpx.Client) -> None:
    assert send(client, "/v1/uploads", *[Text("a", "b")] * 4, File("a", b"x")).status_code == 201
    problem(send(client, "/v1/uploads", *[Text("a", "b")] * 5, File("a", b"x")), 413, "too-many-parts")


def test_more_files_than_a_batch_may_hold_answer_413(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    assert send(client, f"{url}/uploads", File("a", b"x"), File("b", b"x")).status_code == 201
    problem(send(client, f"{url}/uploads", File("c", b"x"), File("d", b"x")), 413, "batch-full")
    assert client.get(url).json()["total_uploads"] == 2
    assert send(client, f"{url}/uploads", File("c", b"x")).status_code == 201
    problem(send(client, f"{url}/uploads", File("d", b"x")), 413, "batch-full")


def test_without_packs_each_upload_is_a_file_of_its_own(strict_server: Boatload, client: httpx.Client) -> None:
    def contents() -> list[bytes]:
        return sorted(path.read_bytes() for path in strict_server.objects.glob("*/*"))

    before = contents()
    answer = send(client, "/v1/uploads", File("a", b"aaa"), File("b", b""), File("c", b"cc"))
    assert answer.status_code == 201
    assert contents() == sorted([*before, b"aaa", b"", b"cc"])
    assert finished(client, answer.json()["url"])["status"] == "completed"
    for result, data in zip(answer.json()["results"], (b"aaa", b"", b"cc"), strict=True):
        assert client.get(result["upload"]["content_url"]).content == data

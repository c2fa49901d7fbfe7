"""More bytes than the operator allows, whether a length says so before or the bytes themselves do."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILE_BYTES, MAX_REQUEST_BYTES, opened
from tests.support.census import unchanged
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import BODY, VERSION, Tus
from tests.support.wire import (
    CONTENT_TYPE,
    FORM,
    File,
    Text,
    all_uploads,
    connection,
    counts,
    finished,
    multipart,
    problem,
    read_answer,
    request_head,
    send,
    verdicts,
)


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_body_past_the_request_limit(server: Boatload, client: httpx.Client, *, chunked: bool) -> None:
    """What was whole before it came to the limit is kept; with a length, nothing is read at all."""
    big = File("big", bytes(MAX_FILE_BYTES))
    files = [File("first", b"x"), big, File("last", bytes(MAX_REQUEST_BYTES - MAX_FILE_BYTES))]
    with unchanged(server, batches=int(chunked), completed=2 * chunked):
        body = multipart(*files)
        answer = client.post("/v1/uploads", content=iter([body]) if chunked else body, headers=FORM)
        kept = problem(answer, 413, "request-too-large").get("results", [])
        assert [result["filename"] for result in kept] == ["first", "big"] * chunked


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_body_of_just_the_request_limit(server: Boatload, client: httpx.Client, *, chunked: bool) -> None:
    """Nothing is refused."""
    big = File("big", bytes(MAX_FILE_BYTES))
    rest = MAX_REQUEST_BYTES - len(multipart(big, File("rest", b"")))
    body = multipart(big, File("rest", bytes(rest)))
    assert len(body) == MAX_REQUEST_BYTES
    with unchanged(server, batches=1, completed=2):
        answer = client.post("/v1/uploads", content=iter([body]) if chunked else body, headers=FORM)
        assert verdicts(answer.json()["results"]) == ["taken"] * 2


@pytest.fixture(scope="module")
def narrow(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server whose files may be bigger than its bodies."""
    with serving(database_url=postgres_servers.get("18").create_migrated(), max_request_bytes=100_000) as made:
        yield made


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize("door", ["path", "content", "tus", "json"])
def test_a_body_past_the_request_limit_at_the_other_doors(narrow: Boatload, door: str, *, chunked: bool) -> None:
    data = b" " * 100_001
    with narrow.client() as client:
        batch = opened(client)
        entry = {"ref": "a", "filename": "a", "size_bytes": len(data)}
        [declared] = client.post(f"{batch}/manifest", json={"entries": [entry]}).json()["entries"]
        tus = Tus(client).create(len(data), batch=batch.rpartition("/")[2])
        method, url, headers = {
            "path": ("PUT", f"{batch}/files/b", {}),
            "content": ("PUT", declared["content_url"], {}),
            "tus": ("PATCH", tus, VERSION | BODY | {"upload-offset": "0"}),
            "json": ("POST", f"{batch}/manifest", {"content-type": "application/json"}),
        }[door]
        with unchanged(narrow, besides=["changes"]):
            content = iter([data[:60_000], data[60_000:]]) if chunked else data
            answer = client.request(method, url, content=content, headers=headers)
            assert problem(answer, 413, "request-too-large")["max_request_bytes"] == 100_000
        assert client.request(method, url, content=b"{}", headers=headers).status_code in {200, 201, 204}


@pytest.mark.parametrize("size", [65 * 2**30, 2**63 - 1, 10**30])
async def test_a_length_past_the_request_limit(server: Boatload, size: int) -> None:
    """It is answered before a byte of the body has come."""
    with unchanged(server):
        async with connection(server.port) as (reader, writer):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=size))
            answer = await asyncio.wait_for(read_answer(reader), 10)
        assert answer.status_code in {400, 413}


def test_one_file_past_the_limit_of_files(server: Boatload, client: httpx.Client) -> None:
    fits, large = File("fits", b"1" * MAX_FILE_BYTES), File("large", b"2" * (MAX_FILE_BYTES + 1))
    with unchanged(server, batches=1, completed=2, failed=1):
        url = opened(client)
        for sent in ((fits,), (large, File("after", b"x"))):
            answer = send(client, f"{url}/uploads", *sent)
        assert answer.status_code == 207
        results = answer.json()["results"]
        assert verdicts(results) == ["rejected", "taken"]
        shown = results[0]["problem"]
        assert (shown["type"], shown["status"]) == ("/problems/file-too-large", 413)
        client.post(f"{url}/seal")
        assert counts(finished(client, url)) == (3, 3, 2, 1)
        assert [upload["received_bytes"] for upload in all_uploads(client, url)] == [MAX_FILE_BYTES, 0, 1]


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_put_past_the_limit_of_files(server: Boatload, client: httpx.Client, *, chunked: bool) -> None:
    body = bytes(MAX_FILE_BYTES + 1)
    url = opened(client)
    with unchanged(server):
        answer = client.put(f"{url}/files/x", content=iter([body]) if chunked else body)
        problem(answer, 413, "file-too-large")


def test_more_parts_than_allowed(server: Boatload, client: httpx.Client) -> None:
    with unchanged(server):
        problem(send(client, "/v1/uploads", *[Text("a", "b")] * 100, File("a", b"x")), 413, "too-many-parts")

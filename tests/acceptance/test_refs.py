"""Many files in one request, each under its ref: what was declared is filled, and each is refused for itself alone."""

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.test_killed import MISCOUNTED, MISPLACED
from tests.support.credentials import bearer, make_key
from tests.support.postgres import Servers, fetch
from tests.support.server import Boatload, boatload, serving
from tests.support.wire import (
    CONTENT_TYPE,
    File,
    Json,
    all_uploads,
    connection,
    counts,
    finished,
    multipart,
    problem,
    read_answer,
    request_head,
    send,
)

KIB = 1 << 10
MIB = 1 << 20
NO_DIGEST = "0" * 64


@pytest.fixture
def batch(client: httpx.Client) -> str:
    return opened(client)


def opened(client: httpx.Client, **new: object) -> str:
    url: str = client.post("/v1/batches", json=new).headers["location"]
    return url


def by_ref(client: httpx.Client, batch: str, *files: File, **headers: str) -> httpx.Response:
    return send(client, f"{batch}/uploads?ref=filename", *files, **headers)


def declare(client: httpx.Client, batch: str, *files: File, seal: bool = False, **more: object) -> list[Json]:
    entries = [
        {"ref": str(file.filename), "filename": str(file.filename), "size_bytes": file.size, "sha256": file.sha256}
        | more
        for file in files
    ]
    answer = client.post(f"{batch}/manifest", json={"entries": entries, "seal": seal})
    assert answer.status_code == 200, answer.text
    declared: list[Json] = answer.json()["entries"]
    return declared


def various(count: int, *, most: int = 4 * KIB) -> list[File]:
    return [File(f"d {number % 3}/é{number}.bin", os.urandom(number % most + 8)) for number in range(count)]


def fresh(name: str, size: int = 16) -> File:
    """A file whose bytes no test before has stored."""
    return File(name, os.urandom(size))


def slugs(results: Sequence[Json]) -> list[str]:
    """The status of each result, or why it is rejected."""
    found = [one["problem"]["type"].removeprefix("/problems/") if one["problem"] else one["status"] for one in results]
    assert [one["status"] == "rejected" for one in results] == [one["problem"] is not None for one in results]
    return found


def held(client: httpx.Client, batch: str) -> dict[str, str]:
    """Digests by ref; every upload has one, and each is there once."""
    uploads = all_uploads(client, batch)
    found = {one["ref"]: one["sha256"] for one in uploads}
    assert len(found) == len(uploads)
    return found


def test_what_was_declared_is_filled_and_the_same_again_changes_nothing(client: httpx.Client, batch: str) -> None:
    files = [*various(300), File("empty", b""), File("big.bin", os.urandom(3 * MIB)), File("large", os.urandom(MIB))]
    declared = declare(client, batch, *files, seal=True, content_type="image/x-declared")
    answer = by_ref(client, batch, *files)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == batch
    results = answer.json()["results"]
    assert [one["index"] for one in results] == list(range(len(files)))
    assert [one["filename"] for one in results] == [file.filename for file in files]
    told = [slug for slug, file in zip(slugs(results), files, strict=True) if file.size]
    assert told == ["stored"] * (len(files) - 1), "another test may have stored the empty file before"
    assert [one["upload"]["id"] for one in results] == [one["upload_id"] for one in declared]
    assert [one["upload"]["sha256"] for one in results] == [file.sha256 for file in files]
    assert {one["upload"]["content_type"] for one in results} == {"image/x-declared"}
    assert answer.json()["batch"]["receiving_uploads"] == 0
    done = finished(client, batch)
    assert counts(done) == (len(files), len(files), len(files), 0)
    assert done["received_bytes"] == done["total_bytes"] == sum(file.size for file in files)
    for file, result in (*zip(files[-3:], results[-3:], strict=True), (files[7], results[7])):
        assert client.get(result["upload"]["content_url"]).content == file.data
    again = by_ref(client, batch, *reversed(files))
    assert again.status_code == 201
    assert slugs(again.json()["results"]) == ["duplicate"] * len(files)
    assert [one["upload"]["id"] for one in again.json()["results"]] == [one["upload_id"] for one in reversed(declared)]
    assert client.get(batch).json() == done


def test_each_file_is_taken_or_refused_for_itself(client: httpx.Client, batch: str) -> None:
    same = os.urandom(900)
    (right, wrong, longer) = (File(name, os.urandom(1000)) for name in ("right", "wrong", "longer"))
    declare(client, batch, right, longer)
    (mismatched,) = declare(client, batch, wrong, sha256=NO_DIGEST)
    assert client.put(f"{batch}/files/there", content=b"there").status_code == 201
    files = [
        File("new", same),
        File("there", b"other"),
        right,
        File("../evil", b"x"),
        wrong,
        File("new", same),
        File("longer", b"short"),
        File("new", b"not the same"),
        File("there", b"there"),
        File("of the same bytes", same),
    ]
    answer = by_ref(client, batch, *files)
    assert answer.status_code == 207, answer.text
    results = answer.json()["results"]
    assert [one["index"] for one in results] == list(range(len(files)))
    assert slugs(results) == [
        "stored",
        "ref-conflict",
        "stored",
        "invalid-filename",
        "digest-mismatch",
        "duplicate",
        "ref-conflict",
        "ref-conflict",
        "duplicate",
        "duplicate",
    ]
    assert [one["upload"] is None for one in results] == [
        slug in "ref-conflict invalid-filename" for slug in slugs(results)
    ]
    assert results[0]["upload"]["id"] == results[5]["upload"]["id"] != results[9]["upload"]["id"]
    assert (results[4]["upload"]["id"], results[4]["upload"]["status"]) == (mismatched["upload_id"], "failed")
    account = client.get(batch).json()
    assert (account["total_uploads"], account["receiving_uploads"], account["failed_uploads"]) == (6, 1, 1)
    assert held(client, batch) == {
        "new": File("", same).sha256,
        "there": File("", b"there").sha256,
        "right": right.sha256,
        "wrong": None,
        "longer": None,
        "of the same bytes": File("", same).sha256,
    }
    mended = by_ref(client, batch, File("longer", longer.data))
    assert slugs(mended.json()["results"]) == ["stored"]


def test_a_sealed_batch_takes_what_it_has_declared_and_nothing_else(client: httpx.Client, batch: str) -> None:
    one, two = fresh("one"), fresh("two")
    declare(client, batch, one, two, seal=True)
    answer = by_ref(client, batch, one, fresh("new"))
    assert answer.status_code == 207
    assert slugs(answer.json()["results"]) == ["stored", "batch-closed"]
    assert slugs(by_ref(client, batch, two).json()["results"]) == ["stored"]
    assert counts(finished(client, batch)) == (2, 2, 2, 0)
    refused = by_ref(client, batch, fresh("new"))
    body = problem(refused, 422, "no-file-taken")
    assert slugs(body["results"]) == ["batch-closed"]
    assert body["batch"]["id"] == batch.rpartition("/")[2]


def test_more_files_than_the_batch_expects_are_refused_and_those_before_them_kept(client: httpx.Client) -> None:
    batch = opened(client, expected_uploads=2)
    first = fresh("a")
    answer = by_ref(client, batch, first, fresh("b"), fresh("c"), first)
    assert slugs(answer.json()["results"]) == ["stored", "stored", "batch-closed", "duplicate"]
    assert answer.json()["batch"]["sealed"]


def test_requests_that_cannot_be_are_refused_whole(client: httpx.Client, batch: str) -> None:
    file = File("a", b"1")
    body = problem(by_ref(client, batch, file, **{"idempotency-key": "k"}), 400, "invalid-header")
    assert (body["header"], "ref" in body["detail"]) == ("Idempotency-Key", True)
    for wrong in ("name", "", "FILENAME"):
        answer = send(client, f"{batch}/uploads?ref={wrong}", file)
        assert problem(answer, 422, "invalid-request")["errors"][0]["where"] == "query.ref"
    problem(by_ref(client, f"/v1/batches/{uuid4()}", file), 404, "not-found")
    problem(by_ref(client, batch), 400, "no-files")
    assert client.get(batch).json()["total_uploads"] == 0
    client.post(f"{batch}/cancel")
    problem(by_ref(client, batch, file), 409, "batch-closed")


@pytest.mark.parametrize("ending", ["end", "close", "reset"])
async def test_a_body_that_is_cut_keeps_its_whole_files_and_is_sent_again(server: Boatload, ending: str) -> None:
    files = [*various(60), File("big.bin", os.urandom(2 * MIB)), *various(90)[60:]]
    body = multipart(*files)
    with server.client() as client:
        batch = opened(client)
        declare(client, batch, *files[:75])
        for at in (200, len(body) // 3, len(body) - 9000, len(body) - 10):
            async with connection(server.port) as (reader, writer):
                size = at if ending == "end" else len(body)
                url = f"{batch}/uploads?ref=filename"
                writer.write(request_head("POST", url, Content_Type=CONTENT_TYPE, Content_Length=size) + body[:at])
                await writer.drain()
                if ending == "end":
                    told = problem(await asyncio.wait_for(read_answer(reader), 20), 400, "truncated-multipart")
                    results = told.get("results", [])
                    assert [one["index"] for one in results] == list(range(len(results)))
                    whole = sum(one["sha256"] is not None for one in all_uploads(client, batch))
                    assert whole == len(results)
                elif ending == "reset":
                    writer.transport.abort()
        answer = by_ref(client, batch, *files)
        assert answer.status_code == 201, answer.text
        assert held(client, batch) == {str(file.filename): file.sha256 for file in files}
        account = client.get(batch).json()
        assert (account["total_uploads"], account["receiving_uploads"]) == (len(files), 0)
        assert account["received_bytes"] == sum(file.size for file in files)


def test_a_file_of_which_a_piece_is_there_is_filled_whole(client: httpx.Client, batch: str) -> None:
    file = File("begun.bin", os.urandom(2 * MIB))
    (entry,) = declare(client, batch, file)
    assert isinstance(file.data, bytes)
    begun = client.put(entry["content_url"], content=file.data[:MIB], headers={"upload-offset": "0"})
    assert begun.json()["received_bytes"] == MIB
    answer = by_ref(client, batch, file, fresh("beside", 1 << 10))
    assert slugs(answer.json()["results"]) == ["stored", "stored"]
    assert client.get(entry["content_url"]).content == file.data
    assert client.get(batch).json()["received_bytes"] == 2 * MIB + KIB


async def test_many_requests_with_the_same_refs_make_each_upload_once(server: Boatload) -> None:
    files = various(200)
    async with server.async_client() as api:
        batch = (await api.post("/v1/batches")).headers["location"]
        sending = []
        for number in range(8):
            turned = files[number * 25 :] + files[: number * 25]
            body = multipart(*turned, File(f"own {number}", b"x"), File("contested", f"{number}".encode()))
            headers = {"content-type": CONTENT_TYPE}
            sending.append(api.post(f"{batch}/uploads?ref=filename", content=body, headers=headers))
        answers = await asyncio.gather(*sending)
    found = [slugs(answer.json()["results"]) for answer in answers]
    assert sorted(one[-1] for one in found) == ["ref-conflict"] * 7 + ["stored"]
    assert all(one[-2] in {"stored", "duplicate"} for one in found)
    assert sum(one[:-2].count("stored") for one in found) <= len(files)
    assert not {slug for one in found for slug in one[:-2]} - {"stored", "duplicate"}
    with server.client() as client:
        assert client.get(batch).json()["total_uploads"] == len(files) + 8 + 1
        stored = held(client, batch)
        assert {name: stored[name] for name in map(str, (file.filename for file in files))} == {
            str(file.filename): file.sha256 for file in files
        }
    url = str(server.settings["database_url"])
    for wrong in (MISCOUNTED, MISPLACED):
        rows = [row for row in fetch(url, wrong) if row["id"]]  # another test may have left files without a batch
        assert rows == []


@pytest.fixture
def limited(postgres_servers: Servers) -> Iterator[Boatload]:
    postgres = postgres_servers.get("18")
    url = postgres.create_migrated()
    with serving(database_url=url, quota_bytes=1000, max_file_bytes=700) as server:
        yield server
    postgres.drop(url)


def test_what_is_over_the_quota_is_refused_and_what_was_declared_has_its_room(limited: Boatload) -> None:
    with limited.client() as client:
        batch = opened(client)
        declared = [File(f"declared {number}", os.urandom(300)) for number in range(3)]
        declare(client, batch, *declared)
        files = [File("over", bytes(101)), declared[0], File("fits", bytes(100)), declared[1], File("full", b"x")]
        answer = by_ref(client, batch, *files)
        assert slugs(answer.json()["results"]) == ["quota-exceeded", "stored", "stored", "stored", "quota-exceeded"]
        assert client.get("/v1/quota").json()["bytes"] == {"limit": 1000, "used": 1000}
        none_left = by_ref(client, batch, File("too large", bytes(701)), declared[2], declared[0])
        assert slugs(none_left.json()["results"]) == ["file-too-large", "stored", "duplicate"]
        account = client.get(batch).json()
        assert (account["total_uploads"], account["failed_uploads"], account["received_bytes"]) == (4, 0, 1000)
        owner = "00000000-0000-8000-8000-000000000001"
        settings = {"database_url": limited.settings["database_url"]}
        assert boatload("quotas", "set", owner, "--bytes", "1000", "--files", "4", **settings).returncode == 0
        assert slugs(by_ref(client, batch, File("a", b"")).json()["results"]) == ["quota-exceeded"]


def test_anothers_batch_is_as_one_that_is_not_there(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url) as server, server.client() as nobody:
        mine, theirs = (bearer(make_key(url, owner=owner)) for owner in (uuid4(), uuid4()))
        batch = nobody.post("/v1/batches", headers=mine).headers["location"]
        file = File("a", b"1")
        foreign = by_ref(nobody, batch, file, **theirs)
        unknown = by_ref(nobody, f"/v1/batches/{uuid4()}", file, **theirs)
        assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
        assert nobody.get(batch, headers=mine).json()["total_uploads"] == 0


def test_without_packs_each_file_has_an_object_of_its_own(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, pack_file_bytes=0) as server, server.client() as client:
        batch, files = opened(client), various(150)
        declare(client, batch, *files[:100])
        results = by_ref(client, batch, *files).json()["results"]
        assert slugs(results) == ["stored"] * len(files)
        for file, result in zip(files, results, strict=True):
            content = client.get(result["upload"]["content_url"]).content
            assert hashlib.sha256(content).hexdigest() == file.sha256
    places = fetch(url, "SELECT count(DISTINCT object_id), count(*) FROM uploads")
    assert [tuple(row) for row in places] == [(150, 150)]

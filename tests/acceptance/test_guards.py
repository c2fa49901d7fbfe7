"""What every file must pass: a virus scanner, and a list of types that are let in."""

import base64
import socket
import time
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.support.clamd import EICAR, SIGNATURE, Clamd, running
from tests.support.files import png
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import File, Json, all_uploads, counts, finished, problem, send

TUS: Final = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
TEXT: Final = b"%PDF-1.7\n% says that it is a picture\n"


@pytest.fixture
def clamd() -> Iterator[Clamd]:
    with running(Clamd()) as scanner:
        yield scanner


@pytest.fixture
def guarded(postgres_servers: Servers, clamd: Clamd) -> Iterator[Boatload]:
    url = postgres_servers.get("18").create_migrated()
    with serving(
        database_url=url, clamd=clamd.address, retry_first_seconds=0.2, retry_longest_seconds=0.2, max_attempts=100
    ) as server:
        yield server


@pytest.fixture(scope="module")
def only_images(postgres_servers: Servers) -> Iterator[httpx.Client]:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, allowed_types="image/*") as server, server.client() as client:
        yield client


def by_name(client: httpx.Client, url: str) -> dict[str, Json]:
    return {one["filename"]: one for one in all_uploads(client, url)}


def test_an_infected_file_fails_and_is_handed_out_to_nobody(guarded: Boatload) -> None:
    with guarded.client() as client:
        batch = client.post("/v1/batches", json={"processors": [], "expected_uploads": 3}).json()
        files = [File("a.txt", b"words"), File("b.txt", b"x" + EICAR), File("c.png", png(30, 20))]
        assert send(client, f"{batch['url']}/uploads", *files).status_code == 201
        assert counts(finished(client, batch["url"])) == (3, 3, 2, 1)
        uploads = by_name(client, batch["url"])
        assert uploads["b.txt"]["error"]["type"] == "/problems/infected"
        assert SIGNATURE in uploads["b.txt"]["error"]["detail"]
        assert uploads["b.txt"]["metadata"] == {"clamd": {"clean": False, "signature": SIGNATURE}}
        assert uploads["a.txt"]["metadata"] == {"clamd": {"clean": True}}
        problem(client.get(uploads["b.txt"]["content_url"]), 403, "content-withheld")
        assert client.head(uploads["b.txt"]["content_url"]).status_code == 403
        assert client.get(uploads["a.txt"]["content_url"]).content == b"words"


def test_bytes_wait_for_a_scanner_that_is_away_and_are_handed_out_when_it_has_looked(postgres_servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = {"clamd": f"127.0.0.1:{port}", "retry_first_seconds": 0.2, "retry_longest_seconds": 0.2}
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, max_attempts=100, **settings) as server, server.client() as client:
        answer = send(client, "/v1/uploads", File("a.txt", b"words")).json()
        upload = f"/v1/uploads/{answer['results'][0]['upload']['id']}"
        deadline = time.monotonic() + 30
        while not (attempts := client.get(f"{upload}/attempts").json()["items"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert attempts[0]["error"]["type"] == "/problems/scanner-unavailable"
        problem(client.get(f"{upload}/content"), 403, "content-withheld")
        with running(Clamd(), port=port) as clamd:
            assert finished(client, answer["url"])["status"] == "completed"
            assert clamd.scanned == [5]
        assert client.get(f"{upload}/content").content == b"words"


def test_a_scanner_that_hangs_up_costs_an_attempt_and_no_file(guarded: Boatload, clamd: Clamd) -> None:
    clamd.cut_after = 1
    with guarded.client() as client:
        answer = send(client, "/v1/uploads", File("a.txt", b"words"), File("b.txt", EICAR)).json()
        deadline = time.monotonic() + 30
        while any(one["attempts"] < 2 for one in all_uploads(client, answer["url"])):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        clamd.cut_after = None
        assert counts(finished(client, answer["url"])) == (2, 2, 1, 1)


@pytest.mark.parametrize("door", ["multipart", "put", "tus"])
def test_declared_type_that_the_content_contradicts_is_415_when_an_allow_list_is_set(
    only_images: httpx.Client, door: str
) -> None:
    batch = only_images.post("/v1/batches", json={"expected_uploads": 2}).json()
    for name, content in (("good.png", png(30, 20)), ("bad.png", TEXT)):
        if door == "multipart":
            answer = send(only_images, f"{batch['url']}/uploads", File(name, content, "image/png"))
        elif door == "put":
            url = f"{batch['url']}/files/{name}"
            answer = only_images.put(url, content=content, headers={"content-type": "image/png"})
        else:
            pairs = {"batch_id": batch["id"], "filename": name, "filetype": "image/png"}
            metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
            headers = {**TUS, "Upload-Length": str(len(content)), "Upload-Metadata": metadata}
            answer = only_images.post("/v1/tus", content=content, headers=headers)
        assert answer.status_code == 201, answer.text
    assert counts(finished(only_images, batch["url"])) == (2, 2, 1, 1)
    uploads = by_name(only_images, batch["url"])
    good, bad = uploads["good.png"], uploads["bad.png"]
    assert (good["status"], good["detected_type"]) == ("completed", "image/png")
    assert (bad["status"], bad["content_type"]) == ("failed", "image/png")
    assert (bad["error"]["type"], bad["error"]["status"]) == ("/problems/type-not-allowed", 415)
    assert only_images.get(good["content_url"]).content == png(30, 20)
    problem(only_images.get(bad["content_url"]), 403, "content-withheld")


def test_declared_type_that_the_content_contradicts_is_accepted_and_both_are_recorded(client: httpx.Client) -> None:
    answer = send(client, "/v1/uploads", File("a.png", TEXT, "image/png")).json()
    assert counts(finished(client, answer["url"])) == (1, 1, 1, 0)
    [upload] = all_uploads(client, answer["url"])
    assert (upload["content_type"], upload["detected_type"]) == ("image/png", "application/pdf")

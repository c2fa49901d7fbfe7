"""tus-js-client in Node, as it comes from npm, against the service and against what networks do to it."""

import os
from pathlib import Path

import pytest

from tests.support.clients import run_tus
from tests.support.faulty_proxy import Fault, faulty_proxy
from tests.support.server import Boatload
from tests.support.tus import ENDPOINT, Tus, states
from tests.support.wire import all_uploads, finished

SIZE = 3_000_000
CHUNK = 700_000
SOON = [0, 10, 20, 50, 100]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(os.urandom(SIZE))
    return path


def arrived(tus: Tus, url: str, file: Path) -> None:
    """All of the file is there, once, and processed."""
    path = url[url.index(ENDPOINT) :]
    assert tus.content(path) == file.read_bytes()
    assert states(finished(tus.client, tus.batch_of(path)["url"])) == {"total": 1, "processed": 1, "successful": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunkSize": CHUNK},
        {"uploadDataDuringCreation": True},
        {"uploadDataDuringCreation": True, "chunkSize": CHUNK},
        {"overridePatchMethod": True, "chunkSize": CHUNK},
        {"addRequestId": True},
        {"parallelUploads": 3},
        {"parallelUploads": 4, "chunkSize": CHUNK // 3},
        {"parallelUploads": 2, "uploadDataDuringCreation": True},
    ],
    ids=str,
)
def test_a_file_arrives(server: Boatload, tus: Tus, clients: Path, file: Path, options: dict[str, object]) -> None:
    metadata = {"filename": "photo.jpg", "filetype": "image/jpeg"}
    done = run_tus(clients, file=str(file), options=options | {"endpoint": server.url + ENDPOINT, "metadata": metadata})
    assert done["error"] is None, done
    arrived(tus, done["url"], file)
    upload = tus.upload(done["url"])
    assert (upload["filename"], upload["content_type"]) == ("photo.jpg", "image/jpeg")


def test_a_stream_whose_length_is_not_known_arrives(server: Boatload, tus: Tus, clients: Path, file: Path) -> None:
    options = {"endpoint": server.url + ENDPOINT, "uploadLengthDeferred": True, "chunkSize": CHUNK}
    done = run_tus(clients, file=str(file), input="pipe", options=options)
    assert done["error"] is None, done
    arrived(tus, done["url"], file)


def test_an_empty_file_arrives(server: Boatload, tus: Tus, clients: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    done = run_tus(clients, file=str(empty), options={"endpoint": server.url + ENDPOINT})
    assert done["error"] is None, done
    arrived(tus, done["url"], empty)


def test_files_join_a_batch(server: Boatload, tus: Tus, clients: Path, file: Path) -> None:
    batch = tus.open_batch()
    for number, parallel in enumerate((1, 3)):
        metadata = {"filename": f"{number}.bin", "batch_id": batch["id"], "ref": f"file-{number}"}
        options = {"endpoint": server.url + ENDPOINT, "metadata": metadata, "parallelUploads": parallel}
        assert run_tus(clients, file=str(file), options=options)["error"] is None
    tus.client.post(f"{batch['url']}/seal")
    assert states(finished(tus.client, batch["url"])) == {"total": 2, "processed": 2, "successful": 2}
    found = [(one["filename"], one["ref"]) for one in all_uploads(tus.client, batch["url"])]
    assert found == [("0.bin", "file-0"), ("1.bin", "file-1")]


@pytest.mark.parametrize("parallel", [1, 2])
def test_it_goes_on_from_a_stored_url_after_a_pause(
    server: Boatload, tus: Tus, clients: Path, file: Path, *, parallel: int
) -> None:
    job = {
        "file": str(file),
        "input": "file",
        "urls": str(file.with_name("urls.json")),
        "options": {"endpoint": server.url + ENDPOINT, "chunkSize": CHUNK, "parallelUploads": parallel},
    }
    first = run_tus(clients, **job, abortAt=CHUNK) if parallel == 1 else run_killed(clients, job)
    assert first["error"] is None, first
    if parallel == 1:
        assert CHUNK <= tus.offset(first["url"]) < SIZE
    second = run_tus(clients, **job)
    assert second["error"] is None, second
    assert second["previous"] == 1
    assert sum(event.startswith("POST") for event in second["events"]) == (parallel > 1)
    assert "HEAD 200" in second["events"]
    arrived(tus, second["url"], file)


def run_killed(clients: Path, job: dict[str, object]) -> dict[str, object]:
    """A first run that ends with its last request refused: all parts have their URLs, and none is put together."""
    options = {**job["options"], "metadata": {"batch_id": "nowhere"}}
    done = run_tus(clients, **(job | {"options": options}))
    assert (done["status"], done["slug"]) == (404, "/problems/not-found")
    return done | {"error": None}


def test_an_upload_can_be_terminated(server: Boatload, tus: Tus, clients: Path, file: Path) -> None:
    options = {"endpoint": server.url + ENDPOINT, "chunkSize": CHUNK}
    done = run_tus(clients, file=str(file), options=options, abortAt=CHUNK, abortTerminates=True)
    assert done["error"] is None, done
    assert done["events"][-1] == "DELETE 204"
    assert tus.head(done["url"]).status_code in {404, 410}

    done = run_tus(clients, file=str(file), options=options)
    ended = run_tus(clients, terminate=done["url"], options={"retryDelays": SOON})
    assert ended["error"] is None, ended
    assert tus.head(done["url"]).status_code in {404, 410}


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("POST", status=500), Fault("POST", status=503)],
        [Fault("PATCH", status=409)],
        [Fault("PATCH", status=423), Fault("PATCH", status=423)],
        [Fault("PATCH", status=500), Fault("HEAD", status=423), Fault("PATCH", status=502)],
        [Fault("PATCH", cut_after=0)],
        [Fault("PATCH", cut_after=100_000), Fault("PATCH", cut_after=1)],
        [Fault("PATCH", lose_answer=True)],
        [Fault("PATCH", lose_answer=True), Fault("HEAD", lose_answer=True), Fault("PATCH", cut_after=300_000)],
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [CHUNK, None])
def test_it_gets_through_what_goes_wrong(
    server: Boatload, tus: Tus, clients: Path, file: Path, *, faults: list[Fault], chunk: int | None
) -> None:
    with faulty_proxy(server.port, *faults) as proxy:
        options: dict[str, object] = {"endpoint": proxy.url + ENDPOINT, "retryDelays": SOON}
        if chunk:
            options["chunkSize"] = chunk
        done = run_tus(clients, file=str(file), options=options)
    assert done["error"] is None, (done, proxy.seen)
    # In one piece nothing is left to be sent once an answer was lost.
    assert proxy.faults == [] or chunk is None
    arrived(tus, done["url"], file)


def test_parallel_parts_get_through_what_goes_wrong(server: Boatload, tus: Tus, clients: Path, file: Path) -> None:
    faults = [Fault("PATCH", cut_after=200_000), Fault("PATCH", lose_answer=True), Fault("PATCH", status=423)]
    with faulty_proxy(server.port, *faults) as proxy:
        options = {"endpoint": proxy.url + ENDPOINT, "retryDelays": SOON, "parallelUploads": 3, "chunkSize": CHUNK}
        done = run_tus(clients, file=str(file), options=options)
    assert done["error"] is None, (done, proxy.seen)
    assert proxy.faults == []
    arrived(tus, done["url"], file)


def test_it_sends_again_no_more_than_what_was_in_flight(server: Boatload, tus: Tus, clients: Path, file: Path) -> None:
    with faulty_proxy(server.port, Fault("PATCH", cut_after=2_000_000)) as proxy:
        done = run_tus(
            clients, file=str(file), options={"endpoint": proxy.url + ENDPOINT, "retryDelays": SOON, "chunkSize": SIZE}
        )
        assert done["error"] is None, (done, proxy.seen)
    heads = [event for event in done["events"] if event.startswith("HEAD")]
    assert heads
    arrived(tus, done["url"], file)


def test_what_is_refused_says_why(server: Boatload, clients: Path, file: Path) -> None:
    metadata = {"filename": "../../etc/passwd"}
    done = run_tus(clients, file=str(file), options={"endpoint": server.url + ENDPOINT, "metadata": metadata})
    assert (done["status"], done["slug"]) == (422, "/problems/invalid-filename")

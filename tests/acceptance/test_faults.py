"""What a fault of the service looks like from outside: on a database that somebody has changed under it."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.postgres import Servers, execute
from tests.support.server import Boatload, serving
from tests.support.tus import ORIGIN
from tests.support.wire import problem


@pytest.fixture(scope="module")
def broken(postgres_servers: Servers) -> Iterator[Boatload]:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, cors_origins=ORIGIN) as server:
        execute(url, "ALTER TABLE upload_batches RENAME COLUMN label TO was_label")
        yield server


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/batches"), ("POST", "/v1/batches"), ("POST", "/v1/tus")], ids=str
)
def test_a_fault_is_answered_under_its_id_in_a_way_that_pages_can_read(
    broken: Boatload, method: str, path: str
) -> None:
    request_id = f"fault-{method}-{path.rpartition('/')[2]}"
    headers = {"x-request-id": request_id, "origin": ORIGIN, "tus-resumable": "1.0.0", "upload-length": "1"}
    with broken.client() as client:
        answer = client.request(method, path, headers=headers)
    problem(answer, 500, "internal-error")
    assert answer.headers["x-request-id"] == request_id
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["connection"] == "close"
    assert answer.headers.get("tus-resumable") == ("1.0.0" if path == "/v1/tus" else None)
    deadline = time.monotonic() + 10
    said: list[tuple[str, str, int | None]] = []
    while ("info", "request", 500) not in said:
        assert time.monotonic() < deadline, said
        lines = [json.loads(line) for line in broken.log.splitlines() if request_id in line]
        said = [(line["level"], line["event"], line.get("status")) for line in lines]
    changes = {"/v1/batches": "open_batch", "/v1/tus": "create_upload"}
    audited = [("info", changes[path], 500)] if method == "POST" else []
    assert said == [*audited, ("error", "unexpected error", None), ("info", "request", 500)]

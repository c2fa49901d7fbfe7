"""What a fault of the service looks like from outside: on a database that somebody has changed under it."""

import json
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
    lines = [json.loads(line) for line in broken.log.splitlines() if request_id in line]
    said = [(line["level"], line["event"], line.get("status")) for line in lines if line["logger"] != "boatload.audit"]
    assert said == [("error", "unexpected error", None), ("info", "request", 500)]

"""The audit log: who did what to which things, in one line each."""

import json
import time
from typing import Any

import httpx
import pytest

from tests.acceptance.auth.conftest import OWNER, Guarded
from tests.support.credentials import make_key_row
from tests.support.foreign import DATA, OPERATIONS
from tests.support.postgres import Servers
from tests.support.server import boatload, serving
from tests.support.tus import Tus
from tests.support.wire import FORM, File, multipart

READING = {"GET", "HEAD", "OPTIONS"}


def trail(guarded: Guarded, answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines about one request, once the last line about it is there."""
    deadline = time.monotonic() + 30
    while True:
        found = [line for line in guarded.server.log.splitlines() if answer.headers["x-request-id"] in line]
        lines = [json.loads(line) for line in found]
        if any(line["logger"] == "boatload.http" and line["event"] == "request" for line in lines):
            return [line for line in lines if line["logger"] == "boatload.audit"]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_change_is_noted_with_who_and_what(guarded: Guarded) -> None:
    row, secret = make_key_row(guarded.url, owner=OWNER)
    with guarded.client(secret) as client:

        def noted(method: str, path: str, status: int, **request: Any) -> tuple[dict[str, Any], httpx.Response]:  # noqa: ANN401 - what httpx takes
            answer = client.request(method, path, **request)
            assert answer.status_code == status, answer.text
            [line] = trail(guarded, answer)
            assert line["status"] == status
            assert (line["owner"], line["by"], line["credential"]) == (str(OWNER), "key", str(row.id))
            assert secret not in json.dumps(line)
            return line, answer

        line, answer = noted("POST", "/v1/batches", 201, json={})
        batch = answer.json()
        assert (line["event"], line["made"]) == ("open_batch", batch["url"])
        of_batch = {"batch_id": batch["id"]}
        line, answer = noted("PUT", f"{batch['url']}/files/a", 201, content=b"audited")
        upload = answer.json()["id"]
        assert line["event"] == "put_file"
        assert line["made"] == f"/v1/uploads/{upload}"
        assert of_batch.items() <= line.items()
        line, answer = noted("POST", f"{batch['url']}/tokens", 201, json={})
        assert line["event"] == "create_token"
        assert line["token_id"]
        token = answer.json()["token"]
        for method, path, status, action in (
            ("POST", f"{batch['url']}/seal", 200, "seal_batch"),
            ("POST", f"{batch['url']}/retry", 200, "retry_batch"),
            ("POST", f"{batch['url']}/cancel", 409, "cancel_batch"),
        ):
            if action == "cancel_batch":
                with client.stream("GET", f"{batch['url']}/events") as events:
                    events.read()  # until it is completed
            line, _ = noted(method, path, status)
            assert line["event"] == action
            assert of_batch.items() <= line.items()
        line, _ = noted("DELETE", f"/v1/uploads/{upload}", 204)
        assert (line["event"], line["upload_id"]) == ("delete_upload", upload)
        line, _ = noted("DELETE", batch["url"], 204)
        assert line["event"] == "delete_batch"
        line, answer = noted("POST", "/v1/uploads", 201, content=multipart(File("a", b"audited")), headers=FORM)
        assert (line["event"], line["made"]) == ("upload_files", answer.json()["url"])
        read = client.get(answer.json()["url"])
        assert trail(guarded, read) == []
    with guarded.client(token) as client:
        refused = client.delete(batch["url"])
        [line] = trail(guarded, refused)
        assert (line["event"], line["code"], line["by"], line["owner"]) == ("refused", "forbidden", "token", str(OWNER))


def test_a_refusal_is_noted(guarded: Guarded, nobody: httpx.Client) -> None:
    answer = nobody.post("/v1/batches", json={})
    [line] = trail(guarded, answer)
    assert (line["event"], line["code"]) == ("refused", "unauthorized")


def ids_for(client: httpx.Client, name: str) -> dict[str, str]:
    """What the path of an operation names, made for it alone. Raises KeyError for what nobody knows how to make."""

    def batch(**new: object) -> str:
        return str(client.post("/v1/batches", json=new).json()["id"])

    def delivery() -> str:
        cancelled = batch(webhook_url="https://receiver.invalid/batch")
        client.post(f"/v1/batches/{cancelled}/cancel")
        return str(client.get(f"/v1/webhooks/deliveries?batch_id={cancelled}").json()["items"][0]["id"])

    make = {
        "batch_id": batch,
        "path": lambda: "a",
        "upload_id": lambda: Tus(client).create(len(DATA)).rpartition("/")[2],
        "webhook_id": lambda: client.post("/v1/webhooks", json={"url": "https://receiver.invalid/x"}).json()["id"],
        "delivery_id": delivery,
    }
    return {named: make[named]() for named in OPERATIONS[name].ids}


@pytest.mark.parametrize("name", [name for name, one in OPERATIONS.items() if one.method not in READING])
def test_each_operation_that_changes_something_leaves_one_line(guarded: Guarded, name: str) -> None:
    """All there are: one that is added is asked for as well."""
    row, secret = make_key_row(guarded.url, owner=OWNER)
    operation = OPERATIONS[name]
    with guarded.client(secret) as client:
        ids = ids_for(client, name)
        request = operation.plain()
        answer = client.request(operation.method, operation.url(ids), **request)
        assert answer.is_success, answer.text
        [line] = trail(guarded, answer)
        assert (line["event"], line["status"], line["level"]) == (name, answer.status_code, "info")
        assert (line["owner"], line["by"], line["credential"]) == (str(OWNER), "key", str(row.id))
        assert {named: line[named] for named in ids if named != "path"} == {k: v for k, v in ids.items() if k != "path"}
        made = answer.headers.get("location")
        assert line.get("made") == made
        assert operation.ids or made or name == "rotate_secret", "it must say what it was about"


def test_commands_about_keys_leave_one_line_each(guarded: Guarded) -> None:
    made = boatload("keys", "create", "x", "--user", str(OWNER), database_url=guarded.url, log_format="json")
    [line] = _audited(made.stderr)
    assert (line["event"], line["owner"], line["credential"]) == ("create_key", str(OWNER), "operator")
    assert made.stdout.strip() not in made.stderr
    gone = boatload("keys", "revoke", line["key_id"], database_url=guarded.url, log_format="json")
    [again] = _audited(gone.stderr)
    assert (again["event"], again["key_id"], again["owner"]) == ("revoke_key", line["key_id"], str(OWNER))


def test_the_audit_log_is_there_at_any_level(postgres_servers: Servers) -> None:
    with serving(database_url=postgres_servers.get("18").create_migrated(), log_level="error") as server:
        with server.client() as client:
            assert client.post("/v1/batches", json={}).status_code == 201
        server.stop()
        assert [line["event"] for line in _audited(server.log)] == ["open_batch"]


def _audited(said: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "boatload.audit"]

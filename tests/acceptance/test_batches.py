"""Opening batches, reading them and listing them, page by page."""

from datetime import datetime, timedelta
from uuid import UUID

import httpx
import pytest

from tests.support.wire import File, Json, Text, all_uploads, everything, finished, send

BATCH_FIELDS = [
    "id",
    "user_id",
    "label",
    "status",
    "sealed",
    "expected_uploads",
    "total_uploads",
    "receiving_uploads",
    "pending_uploads",
    "processing_uploads",
    "processed_uploads",
    "successful_uploads",
    "failed_uploads",
    "cancelled_uploads",
    "total_bytes",
    "received_bytes",
    "progress_percentage",
    "error_message",
    "metadata",
    "version",
    "created_at",
    "started_at",
    "sealed_at",
    "completed_at",
    "updated_at",
    "expires_at",
    "url",
]
UPLOAD_FIELDS = [
    "id",
    "batch_id",
    "ref",
    "filename",
    "status",
    "size_bytes",
    "received_bytes",
    "content_type",
    "detected_type",
    "sha256",
    "width",
    "height",
    "attempts",
    "error",
    "metadata",
    "version",
    "created_at",
    "completed_at",
    "content_url",
    "thumbnail_url",
]


def opened(client: httpx.Client, **fields: object) -> Json:
    answer = client.post("/v1/batches", json=fields)
    assert answer.status_code == 201, answer.text
    batch: Json = answer.json()
    return batch


def test_a_batch_opens_empty_and_pending(each_client: httpx.Client) -> None:
    answer = each_client.post("/v1/batches")
    batch = answer.json()
    assert answer.status_code == 201
    assert list(batch) == BATCH_FIELDS
    assert answer.headers["location"] == batch["url"] == f"/v1/batches/{batch['id']}"
    assert UUID(batch["id"]).version == 7
    assert (batch["status"], batch["sealed"], batch["progress_percentage"]) == ("pending", False, 0)
    assert {batch[name] for name in BATCH_FIELDS if name.endswith(("_uploads", "_bytes"))} == {0, None}
    assert batch["metadata"] == {}
    assert {batch[name] for name in ("label", "error_message", "started_at", "sealed_at", "completed_at")} == {None}
    assert each_client.get(batch["url"]).json() == batch


def test_a_batch_keeps_what_it_was_opened_with(each_client: httpx.Client) -> None:
    given = {
        "label": "Größe \N{SPARKLES} <b>",
        "expected_uploads": 2**31 - 1,
        "metadata": {"a": [1, 2.5, None, True, {"é": "\N{SPARKLES}"}], "": ""},
        "expires_in_seconds": 3600,
    }
    batch = opened(each_client, **given)
    assert {name: batch[name] for name in ("label", "expected_uploads", "metadata")} == {
        name: given[name] for name in ("label", "expected_uploads", "metadata")
    }
    life = datetime.fromisoformat(batch["expires_at"]) - datetime.fromisoformat(batch["created_at"])
    assert life == timedelta(hours=1)
    assert each_client.get(batch["url"]).json() == batch


def test_an_upload_tells_all_its_fields(each_client: httpx.Client) -> None:
    batch = opened(each_client)
    answer = send(each_client, f"{batch['url']}/uploads", File("a", b"x"))
    assert list(answer.json()) == ["batch", "results", "url"]
    assert list(answer.json()["results"][0]) == ["index", "filename", "status", "upload", "problem"]
    assert list(answer.json()["results"][0]["upload"]) == UPLOAD_FIELDS


def test_batches_are_listed_newest_first_over_pages_of_any_size(each_client: httpx.Client) -> None:
    urls = [opened(each_client, label=str(number))["url"] for number in range(7)]
    for limit in (1, 2, 3, 6):
        found: list[str] = []
        following = f"/v1/batches?limit={limit}"
        while len(found) < 7:
            answer = each_client.get(following)
            assert len(answer.json()["items"]) <= limit
            found += [batch["url"] for batch in answer.json()["items"]]
            if len(found) < 7:
                following = answer.links["next"]["url"]
                assert answer.json()["next_cursor"] in following
        assert found[:7] == urls[::-1]


def test_a_list_of_batches_ends_and_holds_each_once(each_client: httpx.Client) -> None:
    urls = {opened(each_client)["url"] for _ in range(3)}
    listed = [batch["url"] for batch in everything(each_client, "/v1/batches?limit=1000")]
    by_twos = [batch["url"] for batch in everything(each_client, f"/v1/batches?limit={max(2, len(listed) // 5)}")]
    assert urls <= set(listed)
    assert len(listed) == len(set(listed))
    assert by_twos == listed


def test_what_comes_while_a_list_is_read_moves_nothing_on_its_later_pages(each_client: httpx.Client) -> None:
    urls = [opened(each_client)["url"] for _ in range(4)]
    first = each_client.get("/v1/batches?limit=2")
    opened(each_client)
    second = each_client.get(first.links["next"]["url"])
    assert [batch["url"] for batch in first.json()["items"] + second.json()["items"]] == urls[::-1]


def test_uploads_are_listed_in_the_order_they_came(each_client: httpx.Client) -> None:
    batch = opened(each_client)
    names = [f"file {number}" for number in range(9)]
    send(each_client, f"{batch['url']}/uploads", *(File(name, name.encode()) for name in names[:5]))
    send(each_client, f"{batch['url']}/uploads", *(File(name, name.encode()) for name in names[5:]))
    for limit in (1, 2, 4, 9, 10):
        assert [upload["filename"] for upload in all_uploads(each_client, batch["url"], limit=limit)] == names


@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed", "cancelled"])
def test_batches_are_filtered_by_status_over_all_pages(each_client: httpx.Client, status: str) -> None:
    one_of_each(each_client)
    listed = everything(each_client, f"/v1/batches?status={status}&limit=3")
    assert listed
    assert {batch["status"] for batch in listed} == {status}
    all_of_them = everything(each_client, "/v1/batches?limit=1000")
    assert [batch["id"] for batch in listed] == [batch["id"] for batch in all_of_them if batch["status"] == status]


def test_uploads_are_filtered_by_status(each_client: httpx.Client) -> None:
    batch = opened(each_client)
    send(each_client, f"{batch['url']}/uploads", File("good", b"x"), File("../bad", b"x"), File("fine", b"x"))
    each_client.post(f"{batch['url']}/seal")
    finished(each_client, batch["url"])
    for status, names in {"completed": ["good", "fine"], "failed": ["../bad"], "pending": []}.items():
        listed = everything(each_client, f"{batch['url']}/uploads?status={status}&limit=1")
        assert [upload["filename"] for upload in listed] == names


def one_of_each(client: httpx.Client) -> None:
    """A batch in every state."""
    opened(client)
    send(client, f"{opened(client)['url']}/uploads", File("a", b"x"))
    client.post(f"{opened(client)['url']}/seal")
    client.post(f"{opened(client)['url']}/cancel")
    assert send(client, "/v1/uploads", Text("note", "x"), File("", b"x")).status_code == 422

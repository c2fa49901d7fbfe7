import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Message

from app.api.body import read_json
from app.api.schemas import BATCH, UPLOAD, NewBatch, batch_out, result_out, upload_out
from app.domain.errors import RequestTooLargeError, UnsupportedMediaTypeError
from app.domain.upload import Refusal, UploadStatus
from app.ingest.arrival import Arrival
from tests.support.values import NOW, make_batch, make_upload

DEEP = b'{"metadata":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"


def posted(body: bytes, content_type: str | None = "application/json", *, chunk: int = 1000) -> Request:
    """A request whose body comes in chunks, and must not be read on once it is refused."""
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", content_type.encode())] if content_type else []
    request = Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}, receive)
    request.state.left = chunks
    return request


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json ;x"])
async def test_a_json_body_is_read_as_its_model(content_type: str) -> None:
    body = json.dumps({"label": "holiday", "expected_uploads": 3, "metadata": {"a": [1, None, "ü"]}}).encode()
    read = await read_json(posted(body, content_type), NewBatch)
    assert (read.label, read.expected_uploads, read.metadata) == ("holiday", 3, {"a": [1, None, "ü"]})


@pytest.mark.parametrize("content_type", [None, "text/plain"])
async def test_no_body_is_a_body_without_members(content_type: str | None) -> None:
    assert await read_json(posted(b"", content_type), NewBatch) == NewBatch()


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/jsonx", "multipart/form-data; boundary=x"]
)
async def test_a_body_that_is_not_called_json_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        await read_json(posted(b"{}", content_type), NewBatch)


async def test_a_body_over_the_limit_is_refused_and_not_read_on() -> None:
    request = posted(b" " * 10_000_000, chunk=10_000)
    with pytest.raises(RequestTooLargeError) as refused:
        await read_json(request, NewBatch, max_bytes=64 * 1024)
    assert refused.value.facts == {"max_request_bytes": 64 * 1024}
    assert len(request.state.left) == 1000 - 7


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}{}",
        b"\xff",
        b'{"label": "\xff"}',
        b'{"unknown": 1}',
        b'{"label": 1}',
        b'{"label": "a\\u0000b"}',
        b'{"label": "a\\nb"}',
        b'{"label": "\\ud800"}',
        b'{"expected_uploads": 0}',
        b'{"expected_uploads": -1}',
        b'{"expected_uploads": 2147483648}',
        b'{"expected_uploads": 1.5}',
        b'{"expected_uploads": NaN}',
        b'{"expires_in_seconds": 0}',
        b'{"expires_in_seconds": 31622401}',
        b'{"metadata": []}',
        b'{"metadata": null}',
        b'{"metadata": {"a": NaN}}',
        b'{"metadata": {"a": [Infinity]}}',
        b'{"metadata": {"a": 1e999}}',
        b'{"metadata": {"a": "\\u0000"}}',
        b'{"metadata": {"\\u0000": 1}}',
        b'{"metadata": {"a": {"b": ["x\\\\\\u0000"]}}}',
        b'{"metadata": {"a": "\\ud800"}}',
        DEEP,
        json.dumps({"label": "x" * 201}).encode(),
        json.dumps({"metadata": {"a": "x" * 16_400}}).encode(),
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_a_body_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        await read_json(posted(body), NewBatch)


@pytest.mark.parametrize(
    "value",
    [
        "a\\u0000b",
        "\\\\u0000",
        "ü\N{GRINNING FACE}",
        "x" * 16_000,
        1,
        0.5,
        True,
        None,
        [],
        {"a": {"b": [[[[1]]]]}},
        10**30,
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_any_other_metadata_is_kept_as_it_is(value: Any) -> None:  # noqa: ANN401 - any JSON
    body = json.dumps({"metadata": {"key": value}}).encode()
    assert (await read_json(posted(body), NewBatch)).metadata == {"key": value}


async def test_what_may_be_left_out_may_be_null() -> None:
    body = json.dumps({name: None for name, field in NewBatch.model_fields.items() if name != "metadata"}).encode()
    assert await read_json(posted(body), NewBatch) == NewBatch()


def test_a_batch_as_clients_see_it() -> None:
    batch = make_batch(
        label="holiday",
        expected_uploads=8,
        total_uploads=8,
        receiving_uploads=1,
        pending_uploads=1,
        processing_uploads=1,
        processed_uploads=3,
        successful_uploads=2,
        failed_uploads=1,
        cancelled_uploads=2,
        total_bytes=80,
        received_bytes=70,
        metadata={"a": 1},
        version=9,
        started_at=NOW,
        sealed_at=NOW + timedelta(seconds=1),
    )
    assert json.loads(BATCH.dump_json(batch_out(batch))) == {
        "id": str(batch.id),
        "user_id": str(batch.user_id),
        "label": "holiday",
        "status": "pending",
        "sealed": True,
        "expected_uploads": 8,
        "total_uploads": 8,
        "receiving_uploads": 1,
        "pending_uploads": 1,
        "processing_uploads": 1,
        "processed_uploads": 3,
        "successful_uploads": 2,
        "failed_uploads": 1,
        "cancelled_uploads": 2,
        "total_bytes": 80,
        "received_bytes": 70,
        "progress_percentage": 37.5,
        "error_message": None,
        "metadata": {"a": 1},
        "version": 9,
        "created_at": "2026-01-01T12:00:00Z",
        "started_at": "2026-01-01T12:00:00Z",
        "sealed_at": "2026-01-01T12:00:01Z",
        "completed_at": None,
        "updated_at": "2026-01-01T12:00:00Z",
        "expires_at": "2026-01-31T12:00:00Z",
        "url": f"/v1/batches/{batch.id}",
    }


@pytest.mark.parametrize(
    ("processed", "total", "percentage"),
    [(0, 0, 0), (0, 3, 0), (1, 3, 33.33), (3, 3, 100), (999_999, 1_000_000, 99.99)],
)
def test_progress_is_what_was_processed_of_the_total(processed: int, total: int, percentage: float) -> None:
    batch = make_batch(processed_uploads=processed, total_uploads=total)
    assert batch_out(batch).progress_percentage == percentage


def test_a_stored_upload_as_clients_see_it() -> None:
    upload = make_upload(UploadStatus.COMPLETED, number=5, ref="a/b", sha256=bytes(range(32)), width=4, height=3)
    shown = json.loads(UPLOAD.dump_json(upload_out(upload)))
    assert shown == {
        "id": str(UUID(int=5)),
        "batch_id": str(UUID(int=1)),
        "ref": "a/b",
        "filename": "5.txt",
        "status": "completed",
        "size_bytes": 10,
        "received_bytes": 10,
        "content_type": "text/plain",
        "detected_type": None,
        "sha256": bytes(range(32)).hex(),
        "width": 4,
        "height": 3,
        "attempts": 0,
        "error": None,
        "metadata": {},
        "version": 1,
        "created_at": "2026-01-01T12:00:00Z",
        "completed_at": "2026-01-01T12:00:00Z",
        "content_url": f"/v1/uploads/{UUID(int=5)}/content",
        "thumbnail_url": None,
    }


def test_where_the_bytes_lie_is_shown_to_nobody() -> None:
    upload = make_upload(UploadStatus.COMPLETED, object_id=UUID(int=99), object_offset=123_456)
    shown = UPLOAD.dump_json(upload_out(upload))
    assert str(UUID(int=99)).encode() not in shown
    assert b"123456" not in shown


def test_a_refused_file_is_an_upload_with_its_problem_and_without_content() -> None:
    refused = make_upload(
        UploadStatus.FAILED,
        size_bytes=None,
        received_bytes=0,
        sha256=None,
        object_id=None,
        object_offset=None,
        error=Refusal("file-too-large", "The file is over 5 bytes."),
    )
    result = result_out(Arrival(4, "1.txt", None), refused)
    assert (result.index, result.filename, result.status) == (4, "1.txt", "rejected")
    assert result.upload is not None
    assert (result.upload.content_url, result.upload.sha256) == (None, None)
    assert result.problem == result.upload.error
    assert result.problem is not None
    assert (result.problem.type, result.problem.status) == ("/problems/file-too-large", 413)


def test_a_file_that_was_taken_is_a_stored_result() -> None:
    upload = make_upload(UploadStatus.PENDING, filename="a/b")
    for duplicate, status in ((False, "stored"), (True, "duplicate")):
        result = result_out(Arrival(0, "a/b", None, duplicate=duplicate), upload)
        assert (result.status, result.filename, result.problem) == (status, "a/b", None)


def test_a_file_that_its_ref_has_is_a_duplicate_though_it_failed_since() -> None:
    upload = make_upload(UploadStatus.FAILED, ref="a", error=Refusal("image-unreadable", "It ends early."))
    result = result_out(Arrival(2, "a", None, already=True), upload)
    assert (result.status, result.problem) == ("duplicate", None)
    assert result.upload is not None
    assert result.upload.error is not None


def test_a_file_that_its_ref_does_not_take_is_rejected_without_an_upload() -> None:
    result = result_out(Arrival(2, "a", None), Refusal("ref-conflict", "There is another file."))
    assert (result.index, result.filename, result.status, result.upload) == (2, "a", "rejected", None)
    assert result.problem is not None
    assert (result.problem.type, result.problem.status) == ("/problems/ref-conflict", 409)

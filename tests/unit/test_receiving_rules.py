from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from app.domain.batch import BatchStatus, reopen
from app.domain.errors import (
    BatchClosedError,
    FileTooLargeError,
    InvalidManifestError,
    OffsetMismatchError,
    RefConflictError,
    SizeConflictError,
    SizeExceededError,
    UploadGoneError,
)
from app.domain.receiving import (
    Action,
    NewUpload,
    Receiving,
    accepted,
    action_for,
    check_entries,
    check_open,
    check_piece,
    check_same,
    moved,
    refused,
)
from app.domain.upload import Refusal, UploadStatus
from tests.support.values import NOW, make_batch, make_upload

DIGEST = b"d" * 32
SECOND = timedelta(seconds=1)


def known(status: UploadStatus = UploadStatus.RECEIVING, *, partial: bool = False, **changes: object) -> Receiving:
    upload = make_upload(status, ref="x")._replace(**changes)  # type: ignore[arg-type]  # fields of an upload
    return Receiving(upload, None, partial, NOW + SECOND, None, BatchStatus.PROCESSING)


def failed(code: str) -> Receiving:
    bytes_gone = {"sha256": None, "object_id": None, "object_offset": None, "received_bytes": 0}
    return known(UploadStatus.FAILED, error=Refusal(code, "No."), **bytes_gone)


def entry(ref: str | None = "x", size: int | None = 10, sha256: bytes | None = None) -> NewUpload:
    return NewUpload(ref, "x", size, sha256)


def test_entries_that_go_together_are_declared() -> None:
    check_entries([], max_file_bytes=10)
    check_entries([entry("a"), entry("b", 0), entry(None), entry(None, None)], max_file_bytes=10)
    check_entries([entry(str(number)) for number in range(10_000)], max_file_bytes=10)


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([entry("a"), entry("b"), entry("a")], InvalidManifestError),
        ([entry(size=-1)], InvalidManifestError),
        ([entry(sha256=b"short")], InvalidManifestError),
        ([entry(str(number)) for number in range(10_001)], InvalidManifestError),
        ([entry(size=11)], FileTooLargeError),
    ],
)
def test_entries_that_do_not_are_refused(entries: list[NewUpload], error: type[Exception]) -> None:
    with pytest.raises(error):
        check_entries(entries, max_file_bytes=10)


@pytest.mark.parametrize(
    ("new", "there", "same"),
    [
        (entry(), known(), True),
        (entry(size=None), known(), True),
        (entry(size=11), known(), False),
        (entry(size=11), known(size_bytes=None), True),
        (entry(sha256=DIGEST), known(), True),
        (entry(sha256=DIGEST), replace(known(), declared_sha256=DIGEST), True),
        (entry(sha256=DIGEST), replace(known(), declared_sha256=b"e" * 32), False),
        (entry(sha256=DIGEST), known(UploadStatus.COMPLETED), False),
        (entry(sha256=bytes(32)), known(UploadStatus.COMPLETED), True),
        (entry(), replace(known(), declared_sha256=DIGEST), True),
    ],
)
def test_what_is_declared_again_is_compared(new: NewUpload, there: Receiving, *, same: bool) -> None:
    if same:
        check_same([(new, there)])
    else:
        with pytest.raises(RefConflictError) as conflict:
            check_same([(entry("fine"), known()), (new, there)])
        assert conflict.value.facts["refs"] == ["x"]


@pytest.mark.parametrize(
    ("there", "action", "offset"),
    [
        (known(), Action.UPLOAD, 0),
        (known(received_bytes=4), Action.RESUME, 4),
        (known(UploadStatus.PENDING), Action.HAVE, 10),
        (known(UploadStatus.COMPLETED), Action.HAVE, 10),
        (known(UploadStatus.FAILED), Action.HAVE, 10),
        (failed("digest-mismatch"), Action.UPLOAD, 0),
        (known(received_bytes=10, partial=True), Action.HAVE, 10),
    ],
)
def test_what_is_left_to_do(there: Receiving, action: Action, offset: int) -> None:
    assert action_for(there) == (action, offset)


def test_what_takes_bytes_and_what_does_not() -> None:
    check_open(known(), now=NOW)
    check_open(failed("digest-mismatch"), now=NOW)
    check_open(replace(known(UploadStatus.COMPLETED), expires_at=NOW), now=NOW + SECOND)
    for there, error in [
        (known(), UploadGoneError),
        (replace(known(), batch_status=BatchStatus.CANCELLED), BatchClosedError),
    ]:
        with pytest.raises(error):
            check_open(there, now=NOW + SECOND)
    for there in (failed("upload-expired"), failed("invalid-filename"), known(UploadStatus.CANCELLED, sha256=None)):
        with pytest.raises(UploadGoneError):
            check_open(replace(there, expires_at=None), now=NOW)
    check_open(replace(known(partial=True), batch_status=None), now=NOW)
    check_open(replace(known(UploadStatus.COMPLETED), batch_status=None), now=NOW)
    with pytest.raises(UploadGoneError):
        check_open(replace(failed("digest-mismatch"), batch_status=None), now=NOW)


@pytest.mark.parametrize(
    ("there", "offset", "length", "final_size", "error"),
    [
        (known(), 0, 10, None, None),
        (known(), 0, None, None, None),
        (known(), 0, 11, None, SizeExceededError),
        (known(), 1, 1, None, OffsetMismatchError),
        (known(received_bytes=4), 4, 6, 10, None),
        (known(received_bytes=4), 4, 7, None, SizeExceededError),
        (known(received_bytes=4), 0, 10, None, OffsetMismatchError),
        (known(received_bytes=4), 4, 6, 11, SizeConflictError),
        (known(received_bytes=4, size_bytes=None), 4, 6, 10, None),
        (known(received_bytes=4, size_bytes=None), 4, 6, 9, SizeExceededError),
        (known(received_bytes=4, size_bytes=None), 4, 0, 3, SizeConflictError),
        (known(received_bytes=4, size_bytes=None), 4, None, None, None),
        (failed("digest-mismatch"), 0, 12, 12, None),
        (failed("digest-mismatch"), 1, 1, None, OffsetMismatchError),
        (known(UploadStatus.COMPLETED), 10, 0, None, None),
        (known(UploadStatus.COMPLETED), 10, 1, None, SizeExceededError),
        (known(UploadStatus.COMPLETED), 0, 10, None, OffsetMismatchError),
    ],
)
def test_where_a_piece_may_go(
    there: Receiving, offset: int, length: int | None, final_size: int | None, error: type[Exception] | None
) -> None:
    if error is None:
        check_piece(there, offset=offset, length=length, final_size=final_size)
    else:
        with pytest.raises(error):
            check_piece(there, offset=offset, length=length, final_size=final_size)


def test_a_wrong_offset_names_the_right_one() -> None:
    with pytest.raises(OffsetMismatchError) as wrong:
        check_piece(known(received_bytes=4), offset=5, length=1, final_size=None)
    assert wrong.value.facts == {"offset": 4}


def test_an_upload_moves_is_accepted_and_refused() -> None:
    place = (UUID(int=9), 77)
    at = {"version": 5, "now": NOW + SECOND}
    on_its_way = moved(failed("digest-mismatch").upload, 4, place[0], version=5, now=NOW + SECOND)
    assert (on_its_way.status, on_its_way.received_bytes, on_its_way.error) == (UploadStatus.RECEIVING, 4, None)
    assert (on_its_way.object_id, on_its_way.object_offset, on_its_way.completed_at) == (place[0], 0, None)
    whole = accepted(on_its_way, 10, DIGEST, place, version=5, now=NOW + SECOND)
    assert (whole.status, whole.size_bytes, whole.received_bytes, whole.sha256) == (
        UploadStatus.PENDING,
        10,
        10,
        DIGEST,
    )
    assert (whole.object_id, whole.object_offset) == place
    gone = refused(on_its_way, Refusal("digest-mismatch", "No."), version=5, now=NOW + SECOND)
    assert (gone.status, gone.received_bytes, gone.object_id) == (UploadStatus.FAILED, 0, None)
    assert gone.completed_at == at["now"]
    assert {one.batch_version for one in (on_its_way, whole, gone)} == {at["version"]}


def test_a_finished_batch_opens_for_bytes_that_come_again_and_a_cancelled_one_does_not() -> None:
    done = make_batch(status=BatchStatus.FAILED, completed_at=NOW, error_message="None.", failed_uploads=1)
    assert (reopen(done).status, reopen(done).completed_at, reopen(done).error_message) == ("processing", None, None)
    going = make_batch(status=BatchStatus.PROCESSING)
    assert reopen(going) is going
    with pytest.raises(BatchClosedError):
        reopen(make_batch(status=BatchStatus.CANCELLED, completed_at=NOW))

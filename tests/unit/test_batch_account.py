from datetime import timedelta
from typing import Any

import pytest

from app.domain.batch import FINAL_BATCH, Batch, BatchStatus, Tally, admit, advance, cancel, leave, tally
from app.domain.errors import BatchClosedError, BatchFullError, BoatloadError, TooManyUploadsError
from app.domain.upload import UploadStatus
from tests.support.values import NOW, make_batch, make_upload

LATER = NOW + timedelta(minutes=5)
MANY = 1_000_000

PENDING = Tally(pending=1, total_bytes=10, received_bytes=10)
SUCCEEDED = Tally(pending=-1, successful=1)
FAILED = Tally(pending=-1, failed=1)


def after(batch: Batch, *deltas: Tally, seal: bool = False) -> Batch:
    """The batch after those changes; `seal` with the last one."""
    for number, delta in enumerate(deltas, 1):
        batch = advance(batch, delta, now=LATER, seal=seal and number == len(deltas))
    return batch


def test_tally_counts_each_state_and_the_bytes_that_are_known() -> None:
    uploads = [make_upload(status, number=number) for number, status in enumerate(UploadStatus)]
    uploads.append(make_upload(UploadStatus.FAILED, number=9, size_bytes=None, received_bytes=0))
    assert tally(uploads) == Tally(1, 1, 1, 1, 2, 1, total_bytes=60, received_bytes=50)


def test_tally_of_nothing_changes_nothing() -> None:
    assert tally([]) == Tally()


def test_a_tally_and_its_negative_cancel_out_in_every_field() -> None:
    one = Tally(1, 2, 3, 4, 5, 6, 7, 8)
    assert one + -one == Tally()
    assert one + one == Tally(2, 4, 6, 8, 10, 12, 14, 16)
    assert -one == Tally(-1, -2, -3, -4, -5, -6, -7, -8)


@pytest.mark.parametrize(
    ("delta", "counter"),
    [
        (Tally(receiving=1), "receiving_uploads"),
        (Tally(pending=1), "pending_uploads"),
        (Tally(processing=1), "processing_uploads"),
        (Tally(successful=1), "successful_uploads"),
        (Tally(failed=1), "failed_uploads"),
        (Tally(cancelled=1), "cancelled_uploads"),
    ],
)
def test_each_state_has_its_counter_and_is_part_of_the_total(delta: Tally, counter: str) -> None:
    batch = after(make_batch(), delta)
    assert getattr(batch, counter) == batch.total_uploads == 1
    assert batch.processed_uploads == batch.successful_uploads + batch.failed_uploads


def test_bytes_move_with_the_delta() -> None:
    batch = after(make_batch(total_bytes=5, received_bytes=3), Tally(total_bytes=10, received_bytes=-2))
    assert (batch.total_bytes, batch.received_bytes) == (15, 1)


def test_the_first_upload_starts_the_batch_and_later_ones_do_not_start_it_again() -> None:
    started = advance(make_batch(), PENDING, now=NOW)
    assert started.status is BatchStatus.PROCESSING
    assert started.started_at == NOW
    assert advance(started, PENDING, now=LATER).started_at == NOW


def test_a_change_without_uploads_leaves_a_batch_pending() -> None:
    batch = after(make_batch(), Tally())
    assert batch.status is BatchStatus.PENDING
    assert batch.started_at is None


def test_every_change_raises_the_version_by_one_and_is_dated() -> None:
    batch = after(make_batch(version=41), Tally())
    assert (batch.version, batch.updated_at) == (42, LATER)


@pytest.mark.parametrize(
    ("deltas", "status", "message"),
    [
        pytest.param([Tally()], BatchStatus.COMPLETED, None, id="empty"),
        pytest.param([PENDING, SUCCEEDED], BatchStatus.COMPLETED, None, id="all succeeded"),
        pytest.param([PENDING, PENDING, SUCCEEDED, FAILED], BatchStatus.COMPLETED, None, id="some succeeded"),
        pytest.param(
            [PENDING, PENDING, FAILED, FAILED],
            BatchStatus.FAILED,
            "None of the 2 files succeeded.",
            id="none succeeded",
        ),
        pytest.param([Tally(failed=1)], BatchStatus.FAILED, "None of the 1 files succeeded.", id="refused on arrival"),
    ],
)
def test_a_sealed_batch_finishes_when_all_is_processed(
    deltas: list[Tally], status: BatchStatus, message: str | None
) -> None:
    batch = after(make_batch(), *deltas, seal=True)
    assert (batch.status, batch.error_message) == (status, message)
    assert batch.sealed_at == batch.completed_at == LATER


@pytest.mark.parametrize("left", [Tally(receiving=1), Tally(pending=1), Tally(processing=1)])
def test_a_sealed_batch_goes_on_while_an_upload_is_not_processed(left: Tally) -> None:
    batch = after(make_batch(), Tally(successful=5), left, seal=True)
    assert batch.sealed_at == LATER
    assert (batch.status, batch.completed_at) == (BatchStatus.PROCESSING, None)


def test_a_batch_that_is_not_sealed_waits_for_more() -> None:
    batch = after(make_batch(), PENDING, SUCCEEDED)
    assert (batch.status, batch.completed_at, batch.sealed_at) == (BatchStatus.PROCESSING, None, None)


def test_the_seal_keeps_its_time() -> None:
    sealed = advance(make_batch(), PENDING, now=NOW, seal=True)
    assert advance(sealed, SUCCEEDED, now=LATER, seal=True).sealed_at == NOW


def test_a_batch_seals_itself_with_the_last_upload_expected_and_not_before() -> None:
    batch = after(make_batch(expected_uploads=2), PENDING)
    assert batch.sealed_at is None
    batch = after(batch, PENDING)
    assert (batch.sealed_at, batch.status) == (LATER, BatchStatus.PROCESSING)
    assert after(batch, SUCCEEDED, SUCCEEDED).status is BatchStatus.COMPLETED


def test_refused_files_count_towards_what_was_expected() -> None:
    batch = after(make_batch(expected_uploads=2), Tally(failed=2))
    assert (batch.sealed_at, batch.status) == (LATER, BatchStatus.FAILED)


def test_deleting_the_last_unprocessed_upload_finishes_a_sealed_batch() -> None:
    batch = after(make_batch(), Tally(pending=1, successful=1), seal=True)
    assert after(batch, Tally(pending=-1)).status is BatchStatus.COMPLETED


@pytest.mark.parametrize("status", sorted(FINAL_BATCH))
def test_a_final_state_stays_whatever_is_deleted(status: BatchStatus) -> None:
    final = make_batch(
        status=status, total_uploads=2, processed_uploads=2, successful_uploads=1, failed_uploads=1, completed_at=NOW
    )
    batch = after(final, Tally(successful=-1), Tally(failed=-1))
    assert (batch.status, batch.completed_at, batch.total_uploads) == (status, NOW, 0)


def test_cancel_moves_what_is_unfinished_and_keeps_what_is_done() -> None:
    batch = after(make_batch(), Tally(receiving=1, pending=2, processing=3, successful=4, failed=5))
    cancelled = cancel(batch, Tally(receiving=-1, pending=-2, processing=-3, cancelled=6), now=LATER)
    assert (cancelled.status, cancelled.completed_at) == (BatchStatus.CANCELLED, LATER)
    assert (cancelled.total_uploads, cancelled.processed_uploads, cancelled.cancelled_uploads) == (15, 9, 6)
    assert cancelled.version == batch.version + 1


def test_a_batch_that_is_half_cancelled_takes_nothing_more_and_ends_as_cancelled() -> None:
    batch = cancel(after(make_batch(), Tally(pending=3)), Tally(pending=-2, cancelled=2), now=LATER)
    assert (batch.status, batch.completed_at, batch.sealed_at) == (BatchStatus.PROCESSING, None, LATER)
    ended = after(batch, SUCCEEDED)
    assert (ended.status, ended.completed_at) == (BatchStatus.CANCELLED, LATER)
    assert (ended.successful_uploads, ended.cancelled_uploads) == (1, 2)


def test_a_batch_that_is_being_deleted_does_not_come_to_its_end_by_that() -> None:
    batch = after(make_batch(), Tally(pending=2, failed=1), seal=True)
    left = leave(batch, Tally(pending=2), now=LATER)
    assert (left.status, left.completed_at, left.error_message) == (BatchStatus.PROCESSING, None, None)
    assert (left.total_uploads, left.pending_uploads, left.version) == (1, 0, batch.version + 1)


@pytest.mark.parametrize("deltas", [[Tally()], [Tally(failed=3)], [Tally(successful=3)]])
def test_cancel_wins_over_an_end_that_the_same_change_would_bring(deltas: list[Tally]) -> None:
    batch = make_batch(sealed_at=NOW)
    for delta in deltas:
        batch = cancel(batch, delta, now=LATER)
    assert (batch.status, batch.error_message) == (BatchStatus.CANCELLED, None)


@pytest.mark.parametrize("status", [BatchStatus.COMPLETED, BatchStatus.FAILED])
def test_a_finished_batch_cannot_be_cancelled(status: BatchStatus) -> None:
    with pytest.raises(BatchClosedError, match=f"is {status}") as refused:
        cancel(make_batch(status=status), Tally(), now=LATER)
    assert refused.value.facts == {"batch_status": status}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": BatchStatus.COMPLETED}, "completed"),
        ({"status": BatchStatus.FAILED}, "failed"),
        ({"status": BatchStatus.CANCELLED}, "cancelled"),
        ({"status": BatchStatus.PROCESSING, "sealed_at": NOW}, "sealed"),
        ({"expires_at": LATER}, "expired"),
        ({"expires_at": NOW}, "expired"),
    ],
)
def test_a_closed_batch_takes_no_more(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BatchClosedError, match=reason):
        admit(make_batch(**changes), 1, max_files=MANY, now=LATER)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": BatchStatus.PROCESSING, "total_uploads": 7},
        {"expires_at": LATER + timedelta(microseconds=1)},
        {"expires_at": None},
        {"expected_uploads": 3},
        {"expected_uploads": 9, "total_uploads": 6},
    ],
)
def test_an_open_batch_takes_more(changes: dict[str, Any]) -> None:
    batch = make_batch(**changes)
    admit(batch, 3, max_files=batch.total_uploads + 3, now=LATER)


@pytest.mark.parametrize(
    ("changes", "error", "facts"),
    [
        ({"expected_uploads": 2}, TooManyUploadsError, {"expected_uploads": 2}),
        ({"expected_uploads": 9, "total_uploads": 7}, TooManyUploadsError, {"expected_uploads": 9}),
        ({"total_uploads": 8}, BatchFullError, {"max_files_per_batch": 10}),
    ],
)
def test_one_file_too_many_is_refused_with_the_limit(
    changes: dict[str, Any], error: type[BoatloadError], facts: dict[str, int]
) -> None:
    with pytest.raises(error) as refused:
        admit(make_batch(**changes), 3, max_files=10, now=LATER)
    assert refused.value.facts == facts

"""Random lives of a batch, compared with the uploads that it should be counting."""

from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain.batch import FINAL_BATCH, Batch, BatchStatus, Tally, admit, advance, cancel, retry, tally
from app.domain.errors import BatchClosedError, BatchFullError, TooManyUploadsError
from app.domain.upload import FINAL_UPLOAD, Upload, UploadStatus
from tests.support.values import NOW, make_batch, make_upload

MAX_FILES = 12
UNFINISHED = frozenset(UploadStatus) - FINAL_UPLOAD
ARRIVING = st.sampled_from([UploadStatus.RECEIVING, UploadStatus.PENDING, UploadStatus.FAILED])
NEXT = {
    UploadStatus.RECEIVING: st.sampled_from([UploadStatus.PENDING, UploadStatus.FAILED]),
    UploadStatus.PENDING: st.sampled_from([UploadStatus.PROCESSING]),
    UploadStatus.PROCESSING: st.sampled_from([UploadStatus.PENDING, UploadStatus.COMPLETED, UploadStatus.FAILED]),
}


class LifeOfABatch(RuleBasedStateMachine):
    """`uploads` are the rows; every change of them moves the batch by the difference, as the service does."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.made = 0
        self.uploads: dict[int, Upload] = {}
        self.batch: Batch = make_batch(expires_at=None)
        self.before: Batch = self.batch
        self.changes = 0
        self.retried = False

    @initialize(expected=st.none() | st.integers(1, 8))
    def open(self, expected: int | None) -> None:
        self.batch = self.before = make_batch(expires_at=None, expected_uploads=expected)

    @rule(statuses=st.lists(ARRIVING, min_size=1, max_size=5))
    def arrive(self, statuses: list[UploadStatus]) -> None:
        after = len(self.uploads) + len(statuses)
        expected = self.batch.expected_uploads
        try:
            admit(self.batch, len(statuses), max_files=MAX_FILES, now=self.now)
        except BatchClosedError:
            assert self.batch.sealed_at or self.batch.status in FINAL_BATCH
        except TooManyUploadsError:
            assert expected is not None
            assert after > expected
        except BatchFullError:
            assert after > MAX_FILES
        else:
            assert not self.batch.sealed_at
            assert self.batch.status not in FINAL_BATCH
            assert after <= min(MAX_FILES, expected or MAX_FILES)
            uploads = dict(self.uploads)
            for status in statuses:
                self.made += 1
                uploads[self.made] = make_upload(status, number=self.made)
            self.change(uploads)

    @precondition(lambda self: any(upload.status in UNFINISHED for upload in self.uploads.values()))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        unfinished = [number for number, upload in self.uploads.items() if upload.status in UNFINISHED]
        uploads = dict(self.uploads)
        for number in data.draw(st.sets(st.sampled_from(unfinished), min_size=1)):
            status = data.draw(NEXT[uploads[number].status])
            uploads[number] = uploads[number]._replace(status=status, received_bytes=10)
        self.change(uploads)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.uploads)))
        self.change({kept: upload for kept, upload in self.uploads.items() if kept != number})

    @precondition(lambda self: not self.batch.sealed_at and self.batch.status not in FINAL_BATCH)
    @rule()
    def seal(self) -> None:
        self.change(self.uploads, seal=True)
        assert self.batch.sealed_at == self.now

    @precondition(lambda self: self.batch.status is not BatchStatus.CANCELLED)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Of many, some go before the others."""
        unfinished = [number for number, upload in self.uploads.items() if upload.status in UNFINISHED]
        some = data.draw(st.just(set(unfinished)) | st.sets(st.sampled_from(unfinished))) if unfinished else ()
        uploads = {
            number: upload._replace(status=UploadStatus.CANCELLED) if number in some else upload
            for number, upload in self.uploads.items()
        }
        delta = tally(uploads.values()) + -tally(self.uploads.values())
        self.tick()
        try:
            self.batch = cancel(self.batch, delta, now=self.now)
        except BatchClosedError:
            assert self.batch.status in {BatchStatus.COMPLETED, BatchStatus.FAILED}
        else:
            self.uploads = uploads
            self.changes += 1
            assert (self.batch.status is BatchStatus.CANCELLED) == (len(some) == len(unfinished))
            assert self.batch.sealed_at or len(some) == len(unfinished)

    @precondition(lambda self: any(upload.status is UploadStatus.FAILED for upload in self.uploads.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        failed = [number for number, upload in self.uploads.items() if upload.status is UploadStatus.FAILED]
        chosen = data.draw(st.sets(st.sampled_from(failed), min_size=1))
        self.tick()
        try:
            self.batch = retry(self.batch, len(chosen), now=self.now)
        except BatchClosedError:
            assert self.batch.status is BatchStatus.CANCELLED
        else:
            for number in chosen:
                self.uploads[number] = self.uploads[number]._replace(status=UploadStatus.PENDING)
            self.changes += 1
            self.retried = True
            assert self.batch.status is BatchStatus.PROCESSING
            assert self.batch.error_message is None

    def change(self, uploads: dict[int, Upload], *, seal: bool = False) -> None:
        delta = tally(uploads.values()) + -tally(self.uploads.values())
        self.tick()
        self.batch = advance(self.batch, delta, now=self.now, seal=seal)
        self.uploads = uploads
        self.changes += 1

    def tick(self) -> None:
        self.before = self.batch
        self.retried = False
        self.now += timedelta(seconds=1)

    @invariant()
    def counts_are_those_of_the_rows(self) -> None:
        batch = self.batch
        assert tally(self.uploads.values()) == Tally(
            batch.receiving_uploads,
            batch.pending_uploads,
            batch.processing_uploads,
            batch.successful_uploads,
            batch.failed_uploads,
            batch.cancelled_uploads,
            batch.total_bytes,
            batch.received_bytes,
        )
        assert batch.total_uploads == len(self.uploads)
        assert batch.processed_uploads == batch.successful_uploads + batch.failed_uploads

    @invariant()
    def version_counts_the_changes(self) -> None:
        assert self.batch.version == 1 + self.changes

    @invariant()
    def it_is_finished_exactly_when_sealed_and_processed_or_cancelled(self) -> None:
        batch = self.batch
        if batch.status in FINAL_BATCH:
            assert batch.completed_at is not None
        else:
            assert batch.completed_at is None
            assert batch.sealed_at is None or batch.unfinished_uploads
        if batch.status in {BatchStatus.COMPLETED, BatchStatus.FAILED}:
            assert batch.sealed_at is not None

    @invariant()
    def it_ends_well_exactly_if_something_succeeded_or_it_is_empty(self) -> None:
        if self.before.status in FINAL_BATCH:
            return
        good = self.batch.successful_uploads > 0 or self.batch.total_uploads == 0
        if self.batch.status is BatchStatus.COMPLETED:
            assert good
        if self.batch.status is BatchStatus.FAILED:
            assert not good

    @invariant()
    def a_final_state_stays_but_for_a_retry(self) -> None:
        if self.before.status in FINAL_BATCH and not self.retried:
            assert self.batch.status is self.before.status
            assert self.batch.completed_at == self.before.completed_at

    @invariant()
    def times_once_set_stay(self) -> None:
        assert self.before.started_at in {None, self.batch.started_at}
        assert self.before.sealed_at in {None, self.batch.sealed_at}
        assert (self.batch.started_at is None) == (self.made == 0)
        assert (self.batch.status is BatchStatus.PENDING) <= (self.made == 0)

    @invariant()
    def what_was_expected_seals_it(self) -> None:
        if self.batch.total_uploads == self.batch.expected_uploads and self.batch.status is not BatchStatus.CANCELLED:
            assert self.batch.sealed_at is not None

    @invariant()
    def a_cancelled_batch_has_nothing_unfinished(self) -> None:
        if self.batch.status is BatchStatus.CANCELLED:
            assert not UNFINISHED & {upload.status for upload in self.uploads.values()}


TestLifeOfABatch = LifeOfABatch.TestCase
TestLifeOfABatch.settings = settings(max_examples=80, stateful_step_count=30)

"""What goes over the wire. Dataclasses, because a thousand of them are made for one answer."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.api.problems import Problem, describe
from app.domain import batch as domain
from app.domain.batch import BatchStatus
from app.domain.limits import MAX_CONTENT_TYPE_BYTES, MAX_MANIFEST_ENTRIES, MAX_REF_CHARACTERS
from app.domain.receiving import Action
from app.domain.upload import Attempt as DomainAttempt
from app.domain.upload import Refusal, UploadStatus
from app.domain.upload import Upload as DomainUpload
from app.ingest.arrival import Arrival
from app.ingest.manifest import Declared
from app.progress.snapshot import Snapshot

_METADATA_BYTES: Final = 16 * 1024
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_MAX_EXPIRES_SECONDS: Final = 366 * 24 * 3600


def _storable(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what a jsonb column cannot hold, or should not: NUL, lone surrogates, NaN, infinities, much of it."""
    text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    if len(text.encode()) > _METADATA_BYTES:
        raise ValueError(f"at most {_METADATA_BYTES} bytes of JSON")
    if _NUL.search(text):
        raise ValueError("no NUL characters")
    return metadata


def _once_each(names: list[str] | None) -> list[str] | None:
    if names is not None and len(set(names)) < len(names):
        raise ValueError("each processor once")
    return names


class NewBatch(BaseModel):
    """What a batch is opened with. All of it may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: Annotated[
        str | None,
        Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="A name for people."),
    ] = None
    expected_uploads: Annotated[
        int | None, Field(ge=1, le=2**31 - 1, description="The batch seals itself when it holds this many.")
    ] = None
    metadata: Annotated[
        dict[str, JsonValue], AfterValidator(_storable), Field(description="Yours; up to 16 KiB of JSON.")
    ] = {}
    expires_in_seconds: Annotated[
        int | None, Field(ge=1, le=_MAX_EXPIRES_SECONDS, description="From then on it takes no more uploads.")
    ] = None
    webhook_url: Annotated[
        str | None,
        Field(json_schema_extra={"format": "uri"}, description="Told when the batch ends, beside your webhooks."),
    ] = None
    processors: Annotated[
        list[str] | None,
        Field(max_length=100, description="What looks into its files, in this order; else what the service is set to."),
        AfterValidator(_once_each),
    ] = None


class Retry(BaseModel):
    """Which of the failed uploads are to be processed again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    upload_ids: Annotated[
        list[UUID] | None, Field(max_length=10_000, description="Uploads of the batch; without it, all that failed.")
    ] = None


class ManifestEntry(BaseModel):
    """A file that is to come."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ref: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_REF_CHARACTERS,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="Your own name for it, unique in the batch; what makes a re-send safe.",
        ),
    ]
    filename: Annotated[str, Field(description="A plain relative path, up to 255 bytes.")]
    size_bytes: Annotated[int, Field(ge=0, le=2**62)]
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$", description="64 hex digits.")] = None
    content_type: Annotated[str | None, Field(max_length=MAX_CONTENT_TYPE_BYTES, pattern=r"^[\x20-\x7e]+$")] = None


class Manifest(BaseModel):
    """Files that are to come, all of them or some."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entries: Annotated[list[ManifestEntry], Field(max_length=MAX_MANIFEST_ENTRIES)] = []
    seal: Annotated[bool, Field(description="Nothing more will be declared; what is declared may still be sent.")] = (
        False
    )


@dataclass(slots=True)
class ManifestResult:
    """What is left to do for one entry."""

    ref: str | None
    action: Annotated[
        Action,
        Field(description="`upload`: send it from its first byte. `resume`: go on at `offset`. `have`: it is here."),
    ]
    offset: Annotated[int, Field(description="How many bytes are stored.")]
    upload_id: UUID
    status: UploadStatus
    url: str
    content_url: Annotated[str, Field(description="PUT the bytes here.")]


@dataclass(slots=True)
class ManifestAnswer:
    """The batch, and what is left to do for each entry, in their order."""

    batch: "Batch"
    entries: list[ManifestResult]


@dataclass(slots=True)
class Batch:
    """One batch, and the exact account of its uploads at one moment.

    `total = receiving + pending + processing + successful + failed + cancelled`, `processed = successful + failed`.
    """

    id: UUID
    user_id: UUID
    label: str | None
    status: BatchStatus
    sealed: Annotated[bool, Field(description="Nothing more will be added.")]
    expected_uploads: int | None
    total_uploads: int
    receiving_uploads: int
    pending_uploads: int
    processing_uploads: int
    processed_uploads: int
    successful_uploads: int
    failed_uploads: int
    cancelled_uploads: int
    total_bytes: Annotated[int, Field(description="Sum of the sizes that are known.")]
    received_bytes: Annotated[int, Field(description="Sum of the bytes that are stored.")]
    progress_percentage: Annotated[float, Field(ge=0, le=100, description="processed / total * 100.")]
    error_message: str | None
    metadata: Mapping[str, JsonValue]
    version: Annotated[int, Field(description="Raised by every change; the ETag.")]
    created_at: datetime
    started_at: datetime | None
    sealed_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    expires_at: datetime | None
    url: str


@dataclass(slots=True)
class Upload:
    """One file of a batch: its bytes, its state, its results."""

    id: UUID
    batch_id: UUID | None
    ref: Annotated[str | None, Field(description="Your own name for it, unique in the batch.")]
    filename: str
    status: UploadStatus
    size_bytes: int | None
    received_bytes: int
    content_type: Annotated[str | None, Field(description="What the client called it.")]
    detected_type: Annotated[str | None, Field(description="What its content says it is.")]
    sha256: Annotated[str | None, Field(description="64 hex digits.")]
    width: int | None
    height: int | None
    attempts: int
    error: Annotated[Problem | None, Field(description="Why it failed.")]
    metadata: Mapping[str, JsonValue]
    version: Annotated[int, Field(description="The batch's version when this last changed; the ETag.")]
    created_at: datetime
    completed_at: datetime | None
    content_url: str | None
    thumbnail_url: str | None


@dataclass(slots=True)
class Result:
    """What became of one file part."""

    index: Annotated[int, Field(description="Its place among the file parts, from 0.")]
    filename: str
    status: Annotated[
        Literal["stored", "duplicate", "rejected"],
        Field(
            description="A duplicate is an upload like any other; its bytes were in your uploads already, or by "
            "`ref=filename` in this very upload."
        ),
    ]
    upload: Annotated[Upload | None, Field(description="Null where a ref takes no such file, so that it made none.")]
    problem: Problem | None


@dataclass(slots=True)
class MultipartAnswer:
    """What became of a multipart body: one result for each file part sent."""

    batch: Batch
    results: list[Result]
    url: str


@dataclass(slots=True)
class BatchPage:
    """Batches, newest first."""

    items: list[Batch]
    next_cursor: Annotated[str | None, Field(description="For the next page; also in the Link header.")]


@dataclass(slots=True)
class UploadPage:
    """Uploads of a batch, in the order they came; with `changed_since`, in the order they changed."""

    items: list[Upload]
    next_cursor: Annotated[str | None, Field(description="For the next page; also in the Link header.")]
    version: Annotated[
        int | None,
        Field(
            description="With `changed_since`: this page and those before it have all changes up to this version. Send "
            "it as the next `changed_since`."
        ),
    ] = None


@dataclass(slots=True)
class Attempt:
    """One attempt at an upload that ended in an error."""

    attempt: Annotated[int, Field(description="Its number, from 1.")]
    ended_at: datetime
    error: Problem


@dataclass(slots=True)
class AttemptPage:
    """Attempts at an upload, in their order."""

    items: list[Attempt]
    next_cursor: Annotated[str | None, Field(description="For the next page; also in the Link header.")]


@dataclass(slots=True)
class Health:
    """How the service is."""

    status: Literal["ok"]


MANIFEST: Final = TypeAdapter(ManifestAnswer)
BATCH: Final = TypeAdapter(Batch)
UPLOAD: Final = TypeAdapter(Upload)
BATCH_PAGE: Final = TypeAdapter(BatchPage)
UPLOAD_PAGE: Final = TypeAdapter(UploadPage)
ATTEMPT_PAGE: Final = TypeAdapter(AttemptPage)
_RESULTS: Final = TypeAdapter(list[Result])


def batch_out(batch: domain.Batch) -> Batch:
    """Return a batch as clients see it."""
    return Batch(
        id=batch.id,
        user_id=batch.user_id,
        label=batch.label,
        status=batch.status,
        sealed=batch.sealed_at is not None,
        expected_uploads=batch.expected_uploads,
        total_uploads=batch.total_uploads,
        receiving_uploads=batch.receiving_uploads,
        pending_uploads=batch.pending_uploads,
        processing_uploads=batch.processing_uploads,
        processed_uploads=batch.processed_uploads,
        successful_uploads=batch.successful_uploads,
        failed_uploads=batch.failed_uploads,
        cancelled_uploads=batch.cancelled_uploads,
        total_bytes=batch.total_bytes,
        received_bytes=batch.received_bytes,
        progress_percentage=domain.progress_percentage(batch),
        error_message=batch.error_message,
        metadata=batch.metadata,  # type: ignore[arg-type]  # it came out of a jsonb column
        version=batch.version,
        created_at=batch.created_at,
        started_at=batch.started_at,
        sealed_at=batch.sealed_at,
        completed_at=batch.completed_at,
        updated_at=batch.updated_at,
        expires_at=batch.expires_at,
        url=f"/v1/batches/{batch.id}",
    )


def snapshot_json(snapshot: Snapshot) -> bytes:
    """Return a batch as JSON; for `Snapshot.once`."""
    return draft_batch(snapshot.batch)


def upload_out(upload: DomainUpload) -> Upload:
    """Return an upload as clients see it."""
    return Upload(
        id=upload.id,
        batch_id=upload.batch_id,
        ref=upload.ref,
        filename=upload.filename,
        status=upload.status,
        size_bytes=upload.size_bytes,
        received_bytes=upload.received_bytes,
        content_type=upload.content_type,
        detected_type=upload.detected_type,
        sha256=upload.sha256.hex() if upload.sha256 else None,
        width=upload.width,
        height=upload.height,
        attempts=upload.attempts,
        error=describe(upload.error.code, upload.error.detail) if upload.error else None,
        metadata=upload.metadata,  # type: ignore[arg-type]  # it came out of a jsonb column
        version=upload.batch_version,
        created_at=upload.created_at,
        completed_at=upload.completed_at,
        content_url=f"/v1/uploads/{upload.id}/content" if upload.object_id and upload.sha256 else None,
        thumbnail_url=f"/v1/uploads/{upload.id}/thumbnail" if upload.thumbnail_object_id else None,
    )


def attempt_out(attempt: DomainAttempt) -> Attempt:
    """Return an attempt as clients see it: which machine had it is nothing of theirs."""
    return Attempt(attempt.number, attempt.ended_at, describe(attempt.error.code, attempt.error.detail))


def result_out(arrival: Arrival, outcome: DomainUpload | Refusal) -> Result:
    """Return what became of a file part: of the row it made or found, or why there is none."""
    if isinstance(outcome, Refusal):
        problem = describe(outcome.code, outcome.detail)
        return Result(arrival.index, arrival.filename, "rejected", None, problem)
    shown = upload_out(outcome)
    if arrival.already:  # whatever became of its bytes since, they are the same
        return Result(arrival.index, arrival.filename, "duplicate", shown, None)
    status: Literal["stored", "duplicate"] = "duplicate" if arrival.duplicate else "stored"
    return Result(arrival.index, arrival.filename, "rejected" if shown.error else status, shown, shown.error)


def manifest_out(batch: domain.Batch, declared: Sequence[Declared]) -> ManifestAnswer:
    """Return what is left to do for the entries of a manifest."""
    return ManifestAnswer(batch_out(batch), [_manifest_result(one) for one in declared])


def _manifest_result(one: Declared) -> ManifestResult:
    upload = one.upload
    url = f"/v1/uploads/{upload.id}"
    return ManifestResult(upload.ref, one.action, one.offset, upload.id, upload.status, url, f"{url}/content")


def draft_results(arrivals: Sequence[Arrival], outcomes: Sequence[DomainUpload | Refusal]) -> bytes:
    """Return the results of file parts as JSON, one behind the other."""
    return _RESULTS.dump_json(list(map(result_out, arrivals, outcomes)))[1:-1]


def draft_batch(batch: domain.Batch) -> bytes:
    """Return a batch as JSON."""
    return BATCH.dump_json(batch_out(batch))


def multipart_answer(batch_id: UUID, batch: bytes, drafts: Sequence[bytes]) -> bytes:
    """Return a MultipartAnswer as JSON, of what `draft_batch` and `draft_results` wrote."""
    return b'{"batch":%b,"results":[%b],"url":"/v1/batches/%b"}' % (batch, b",".join(drafts), str(batch_id).encode())

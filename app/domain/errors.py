"""What can go wrong, as values: a code, a sentence for people, and facts for programs. No HTTP in here.

Every leaf has a row in `app/api/problems.py`, which alone knows statuses; a test compares the two.
"""

from collections.abc import Mapping
from typing import ClassVar, Final


class BoatloadError(Exception):
    """Base of all errors that a client may be told of.

    `code` names the kind for ever (it is the last part of the problem type). `detail` is one sentence on what happened
    and what to do. `facts` are JSON-ready values that programs may use.
    """

    code: ClassVar[str]

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail: Final = detail
        self.facts: Final[Mapping[str, object]] = facts


class NotFoundError(BoatloadError):
    """No such thing, or it is another owner's: nobody can tell which."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__("There is nothing here that belongs to you.")


class UnauthorizedError(BoatloadError):
    """No credential where one is needed, or one that does not hold."""

    code = "unauthorized"


class ForbiddenError(BoatloadError):
    """A credential that holds, and is not good for this; where a scope is missing, `scope` is among the facts."""

    code = "forbidden"


class IssuerUnavailableError(BoatloadError):
    """The keys of an issuer of JWTs cannot be had, so nobody can tell whether a token is one of its own."""

    code = "issuer-unavailable"

    def __init__(self) -> None:
        super().__init__("The issuer of this token does not give out its keys. Try again in a moment.")


class BatchClosedError(BoatloadError):
    """The batch is sealed, finished, cancelled or expired."""

    code = "batch-closed"


class TooManyUploadsError(BoatloadError):
    """More files than the opener of the batch said to expect."""

    code = "more-than-expected"


class BatchFullError(BoatloadError):
    """More files than any batch may hold here."""

    code = "batch-full"


class QuotaExceededError(BoatloadError):
    """More than the owner may hold; `quota` says of what, `limit` how much that is, `used` how much is held."""

    code = "quota-exceeded"


class TooManyRequestsError(BoatloadError):
    """More requests, or more bodies at the same time, than one caller may send; `policy` says which."""

    code = "too-many-requests"


class InvalidHeaderError(BoatloadError):
    """A header field whose value makes no sense; `header` names it among the facts."""

    code = "invalid-header"


class UnsupportedTusVersionError(BoatloadError):
    """A request in a version of tus that is not spoken here, or in none."""

    code = "unsupported-tus-version"

    def __init__(self) -> None:
        super().__init__("Send Tus-Resumable: 1.0.0, which is the version spoken here.")


class FinalUploadError(BoatloadError):
    """Bytes for an upload that is put together from others."""

    code = "final-upload"

    def __init__(self) -> None:
        super().__init__("The upload is put together from partial uploads; it takes no bytes itself.")


class RefConflictError(BoatloadError):
    """The same ref with another size or other bytes; the first refs of that kind are among the facts."""

    code = "ref-conflict"


class InvalidManifestError(BoatloadError):
    """Entries that cannot be declared as a whole; nothing of them was."""

    code = "invalid-manifest"


class OffsetMismatchError(BoatloadError):
    """A piece that does not begin where the durable bytes end; `offset` is where they do."""

    code = "offset-mismatch"

    def __init__(self, offset: int) -> None:
        super().__init__(f"The upload goes on at byte {offset}.", offset=offset)
        self.offset: Final = offset


class UploadLockedError(BoatloadError):
    """Somebody else writes the upload: another process that did not let go in time, or one that came later."""

    code = "upload-locked"

    def __init__(self) -> None:
        super().__init__("Another request writes this upload. Ask for its offset and go on from there.")


class UploadGoneError(BoatloadError):
    """The upload takes no bytes any more: it expired or was cancelled before it was whole."""

    code = "upload-gone"


class UploadExpiredError(BoatloadError):
    """The upload was declared, and its time ran out before all its bytes had come."""

    code = "upload-expired"

    def __init__(self) -> None:
        super().__init__("Its time ran out before all its bytes had come.")


class SizeExceededError(BoatloadError):
    """More bytes than the upload was declared to have; `size_bytes` is among the facts."""

    code = "size-exceeded"


class SizeConflictError(BoatloadError):
    """A size that is not the one declared before, or less than what has come already."""

    code = "size-conflict"


class InvalidOffsetError(BoatloadError):
    """An offset that is no number of bytes."""

    code = "invalid-offset"


class ContentRangeError(BoatloadError):
    """A piece that names its place by Content-Range (RFC 9110 §14.5)."""

    code = "content-range"


class InvalidDigestError(BoatloadError):
    """A digest in a form that cannot be read, or of a kind that is not known."""

    code = "invalid-digest"


class DigestMismatchError(BoatloadError):
    """The bytes are not those whose digest was given; none of them were kept."""

    code = "digest-mismatch"

    def __init__(self) -> None:
        super().__init__("The bytes do not match their digest. Nothing of them was kept; send them again.")


class ChecksumMismatchError(BoatloadError):
    """A piece is not the one whose checksum was given; nothing of it was kept."""

    code = "checksum-mismatch"

    def __init__(self) -> None:
        super().__init__("The piece does not match its checksum. Nothing of it was kept; send it again.")


class PartsUnfinishedError(BoatloadError):
    """Uploads that are to be put together, and are not all there."""

    code = "parts-unfinished"


class InvalidCursorError(BoatloadError):
    """A cursor that this service did not hand out for this list."""

    code = "invalid-cursor"

    def __init__(self) -> None:
        super().__init__("The cursor is not one that this list gave out. Start again without it.")


class InvalidEventIdError(BoatloadError):
    """An event id that no event of this service has."""

    code = "invalid-event-id"

    def __init__(self) -> None:
        super().__init__("The event id is none that this stream gave out. Follow the batch again without it.")


class RangeNotSatisfiableError(BoatloadError):
    """A range that lies outside the bytes; `size_bytes` is among the facts."""

    code = "range-not-satisfiable"


class ContentUnavailableError(BoatloadError):
    """The upload exists, but its bytes were never taken."""

    code = "content-unavailable"


class UnsupportedMediaTypeError(BoatloadError):
    """A body, or a part, in a form that this route does not take."""

    code = "unsupported-media-type"


class MalformedMultipartError(BoatloadError):
    """A body that is not multipart/form-data as RFC 7578 has it."""

    code = "malformed-multipart"


class TruncatedMultipartError(BoatloadError):
    """A body that ended before its closing boundary."""

    code = "truncated-multipart"


class NoFilesError(BoatloadError):
    """A body without a single file part."""

    code = "no-files"


class TooManyPartsError(BoatloadError):
    """More parts in one body than allowed."""

    code = "too-many-parts"


class FieldTooLargeError(BoatloadError):
    """A text field over the limit."""

    code = "field-too-large"


class RequestTooLargeError(BoatloadError):
    """A body over the limit."""

    code = "request-too-large"


class InvalidFieldError(BoatloadError):
    """A text field whose value makes no sense."""

    code = "invalid-field"


class InvalidFilenameError(BoatloadError):
    """A file name that is missing, or no plain relative path."""

    code = "invalid-filename"


class FileTooLargeError(BoatloadError):
    """A file over the limit."""

    code = "file-too-large"


class NoThumbnailError(BoatloadError):
    """The upload exists, but has no thumbnail."""

    code = "no-thumbnail"


class InvalidWebhookUrlError(BoatloadError):
    """A URL that no webhook may be sent to."""

    code = "invalid-webhook-url"


class WebhookLimitError(BoatloadError):
    """More webhooks, or more secrets for them, than an owner may have."""

    code = "webhook-limit"


class IdempotencyKeyReusedError(BoatloadError):
    """The key of another request."""

    code = "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__("The key was sent with another request. Nothing was changed; send this one with a new key.")


class IdempotencyKeyInFlightError(BoatloadError):
    """A request that is on its way already, under the same key."""

    code = "idempotency-key-in-flight"

    def __init__(self) -> None:
        super().__init__("A request with that key is still on its way. Send it again in a moment to learn its answer.")


class StorageFullError(BoatloadError):
    """The store has no room."""

    code = "storage-full"

    def __init__(self) -> None:
        super().__init__("The store is full. Nothing of this file was kept; try again when there is room.")


class StorageUnavailableError(BoatloadError):
    """The store did not do what was asked."""

    code = "storage-unavailable"

    def __init__(self) -> None:
        super().__init__("The store does not answer as it should. Try again in a moment.")


class DatabaseUnavailableError(BoatloadError):
    """The database cannot be reached, or went away in the middle."""

    code = "database-unavailable"

    def __init__(self) -> None:
        super().__init__("The database cannot be reached. Try again in a moment.")

"""RFC 9457 problems: the only tables from what goes wrong to statuses, and the handlers that answer with them."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.domain import errors, processing_errors, request_errors
from app.domain.errors import BoatloadError

log: Final = structlog.get_logger("boatload.http")

MEDIA_TYPE: Final = "application/problem+json"
_PREFIX: Final = "/problems/"

TABLE: Final[Mapping[type[BoatloadError], tuple[int, str]]] = {
    errors.NotFoundError: (404, "Not found"),
    errors.UnauthorizedError: (401, "Unauthorized"),
    errors.ForbiddenError: (403, "Forbidden"),
    errors.IssuerUnavailableError: (503, "Issuer unavailable"),
    request_errors.MalformedRequestError: (400, "Malformed request"),
    request_errors.RequestTimeoutError: (408, "Request timeout"),
    request_errors.HeadTooLargeError: (431, "Header fields too large"),
    request_errors.TargetTooLongError: (414, "Target too long"),
    request_errors.ExpectationFailedError: (417, "Expectation failed"),
    errors.BatchClosedError: (409, "The batch takes no more"),
    errors.TooManyUploadsError: (409, "More files than expected"),
    errors.BatchFullError: (413, "The batch is full"),
    errors.QuotaExceededError: (413, "Quota exceeded"),
    errors.TooManyRequestsError: (429, "Too many requests"),
    errors.InvalidHeaderError: (400, "Invalid header"),
    errors.UnsupportedTusVersionError: (412, "Unsupported tus version"),
    errors.FinalUploadError: (403, "A final upload"),
    errors.RefConflictError: (409, "Another file under that ref"),
    errors.InvalidManifestError: (422, "Invalid manifest"),
    errors.OffsetMismatchError: (409, "Wrong offset"),
    errors.UploadLockedError: (423, "Upload locked"),
    errors.UploadGoneError: (410, "Upload gone"),
    errors.UploadExpiredError: (410, "Upload expired"),
    errors.SizeExceededError: (413, "More than declared"),
    errors.SizeConflictError: (409, "Another size"),
    errors.InvalidOffsetError: (400, "Invalid offset"),
    errors.ContentRangeError: (400, "Content-Range not understood"),
    errors.InvalidDigestError: (400, "Invalid digest"),
    errors.DigestMismatchError: (422, "Digest mismatch"),
    errors.ChecksumMismatchError: (422, "Checksum mismatch"),
    errors.PartsUnfinishedError: (409, "Parts unfinished"),
    errors.InvalidCursorError: (422, "Invalid cursor"),
    errors.InvalidEventIdError: (422, "Invalid event id"),
    errors.RangeNotSatisfiableError: (416, "Range not satisfiable"),
    errors.ContentUnavailableError: (404, "No content"),
    processing_errors.ContentWithheldError: (403, "Content withheld"),
    processing_errors.InfectedError: (422, "Infected"),
    processing_errors.TypeNotAllowedError: (415, "Type not allowed"),
    errors.UnsupportedMediaTypeError: (415, "Unsupported media type"),
    errors.MalformedMultipartError: (400, "Malformed multipart body"),
    errors.TruncatedMultipartError: (400, "Truncated multipart body"),
    errors.NoFilesError: (400, "No files"),
    errors.TooManyPartsError: (413, "Too many parts"),
    errors.FieldTooLargeError: (413, "Field too large"),
    errors.RequestTooLargeError: (413, "Request too large"),
    errors.InvalidFieldError: (422, "Invalid field"),
    errors.InvalidFilenameError: (422, "Invalid file name"),
    errors.FileTooLargeError: (413, "File too large"),
    errors.NoThumbnailError: (404, "No thumbnail"),
    processing_errors.UnknownProcessorError: (422, "Unknown processor"),
    processing_errors.ProcessorCrashedError: (422, "Processing crashed"),
    processing_errors.ProcessorTimeoutError: (422, "Processing took too long"),
    processing_errors.ProcessorOutOfMemoryError: (422, "Processing took too much memory"),
    processing_errors.ProcessorFailedError: (422, "Processing failed"),
    processing_errors.ImageTooLargeError: (422, "Image too large"),
    processing_errors.ImageUnreadableError: (422, "Image unreadable"),
    processing_errors.WorkerLostError: (500, "Worker lost"),
    processing_errors.AttemptsExhaustedError: (500, "Processing never ended"),
    errors.InvalidWebhookUrlError: (422, "Invalid webhook URL"),
    errors.WebhookLimitError: (409, "Too many webhooks"),
    errors.IdempotencyKeyReusedError: (422, "Idempotency key reused"),
    errors.IdempotencyKeyInFlightError: (409, "Idempotency key in flight"),
    errors.StorageFullError: (507, "Storage full"),
    errors.StorageUnavailableError: (503, "Storage unavailable"),
    errors.DatabaseUnavailableError: (503, "Database unavailable"),
}
OTHERS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid-request": (422, "Invalid request"),
    "internal-error": (500, "Internal error"),
    "method-not-allowed": (405, "Method Not Allowed"),
    "no-file-taken": (422, "No file taken"),
    "not-ready": (503, "Not ready"),
    "stopping": (503, "The service stops"),
}
"""Problems that are no error of the domain, by their code."""
OF_ANY_REQUEST: Final = frozenset(
    status for error, (status, _) in TABLE.items() if error.__module__ == request_errors.__name__
)
"""What any request may be answered with before anybody looks at what it asks for."""
_BY_CODE: Final = {**{error.code: row for error, row in TABLE.items()}, **OTHERS}
_OF_A_PROCESSOR: Final = TABLE[processing_errors.ProcessorFailedError]
_RETRY_AFTER_SECONDS: Final = "2"
_IN_FLIGHT: Final = _PREFIX + errors.IdempotencyKeyInFlightError.code


class Problem(BaseModel):
    """An RFC 9457 problem. Some kinds carry further members, which say what the sentence says to programs."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(description="`/problems/<slug>`; what kind it is, for programs.")]
    title: Annotated[str, Field(description="What kind it is, for people.")]
    status: Annotated[int, Field(description="The HTTP status that goes with it.")]
    detail: Annotated[str, Field(description="What happened this time, and what to do.")]


def describe(code: str, detail: str) -> Problem:
    """Return the problem of that code, of TABLE or OTHERS; any other code is one that a processor chose."""
    status, title = _BY_CODE.get(code, _OF_A_PROCESSOR)
    return Problem(type=_PREFIX + code, title=title, status=status, detail=detail)


def of_error(error: BoatloadError) -> Problem:
    """Return the problem of an error of ours, with its facts."""
    problem = describe(error.code, error.detail)
    return problem.model_copy(update=dict(error.facts))


def answer(problem: Problem, headers: Mapping[str, str] | None = None, *, members: bytes = b"") -> Response:
    """Return the response for a problem, with the members of a JSON object beside its own."""
    body = to_json(problem)
    body = body[:-1] + b"," + members[1:] if members else body
    response = Response(body, problem.status, media_type=MEDIA_TYPE, headers=dict(headers or {}))
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE or problem.type == _IN_FLIGHT:
        response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    return response


def install(app: FastAPI) -> None:
    """Make every error of the application a problem, those of the framework included."""
    app.add_exception_handler(BoatloadError, _boatload_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, client_gone)


async def _boatload_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BoatloadError)
    return answer_error(error)


def answer_error(error: BoatloadError, **headers: str) -> Response:
    """Return the response for an error of ours; where an upload goes on is in a header as well."""
    if isinstance(error, errors.OffsetMismatchError):
        headers["Upload-Offset"] = str(error.offset)
    return answer(of_error(error), headers)


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError | ValidationError)
    faults = [{"where": _where(fault), "message": str(fault["msg"])} for fault in _faults(error)]
    detail = "; ".join(f"{fault['where']}: {fault['message']}" for fault in faults[:5])
    return answer(describe("invalid-request", detail).model_copy(update={"errors": faults[:100]}))


def _faults(error: RequestValidationError | ValidationError) -> Sequence[Any]:
    if isinstance(error, ValidationError):  # without copies of what was sent, once for each of thousands of faults
        return error.errors(include_url=False, include_context=False, include_input=False)
    return error.errors()


async def _http_error(_request: Request, error: Exception) -> Response:
    """Answer for the framework's own paths: `/openapi.json` and the files of `/docs`."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.setdefault("Allow", "GET, HEAD")  # which its files do not say
    return answer_status(error.status_code, headers)


def answer_status(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the problem of a status that says it all."""
    known = HTTPStatus(status)
    slug = known.phrase.lower().replace(" ", "-")
    detail = known.description or known.phrase
    return answer(Problem(type=_PREFIX + slug, title=known.phrase, status=status, detail=detail), headers)


async def client_gone(request: Request, _error: Exception) -> Response:
    """Nobody hears this answer; it only ends the request in good order."""
    log.info("client went away", method=request.method, path=request.url.path)
    return Response(status_code=400, headers={"Connection": "close"})


def _where(fault: ErrorDetails) -> str:
    return ".".join(str(part) for part in fault["loc"]) or "body"

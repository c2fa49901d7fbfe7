"""The header fields of tus 1.0.0, read strictly: what a client may send of each, as values."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.datastructures import Headers

from app.api.dependencies import identity
from app.api.multipart import media_type
from app.domain.errors import (
    FileTooLargeError,
    FinalUploadError,
    InvalidHeaderError,
    NotFoundError,
    SizeExceededError,
    UnsupportedMediaTypeError,
)
from app.domain.limits import MAX_REF_CHARACTERS

PATH: Final = "/v1/tus"
VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
)
DIGEST_BYTES: Final[Mapping[str, int]] = {"sha256": 32, "sha1": 20, "crc32": 4}
"""What `Upload-Checksum` may name, and how long its value is. CRC-32 as in ISO 3309, big end first."""
BODY_TYPE: Final = "application/offset+octet-stream"

_LARGEST: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"[0-9]{1,40}")
_KEY: Final = re.compile(r"[!-+\--~]+")
_MAX_METADATA_KEYS: Final = 100
_MAX_PARTS: Final = 1000
_BREAKS: Final = re.compile(r"[\r\n\x00]")
_NONE: Final = frozenset({"", "null", "undefined"})
"""What a script makes of a value that is not there; Uppy sends `relativePath` so for every file outside a folder."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """`Upload-Metadata`: what we understand of it, and the field as it came, for HEAD to give back."""

    raw: str
    batch_id: UUID | None
    """The batch to add to; None for a batch of its own."""
    ref: str | None
    filename: bytes | None
    """A relative path where the client sent one; not looked at yet."""
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Concat:
    """`Upload-Concat`: a piece of what is to be one file, or that file, whose pieces are `parts`."""

    raw: str
    parts: tuple[UUID, ...] | None
    """None for a partial upload."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """`Upload-Checksum`: what the bytes of this request are to come to."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """What the head of a request says of its body; `length` is None where it is chunked."""

    length: int | None


@dataclass(frozen=True, slots=True)
class Creation:
    """What a POST asks for."""

    metadata: Metadata
    concat: Concat | None
    length: int | None
    """None where it is deferred, or that of the parts."""
    checksum: Checksum | None
    body: Body | None


def read_creation(headers: Headers, *, path: str, max_bytes: int) -> Creation:
    """Return what a POST asks for. Raises what the parts of it raise, and FinalUploadError for bytes of a final upload.

    An upload has either a length or a deferred one, and a final one neither (tus 1.0.0, "Creation", "Concatenation").
    """
    length, deferred = read_length(headers, max_bytes=max_bytes), read_deferred(headers)
    concat = read_concat(headers, path=path)
    creation = Creation(read_metadata(headers), concat, length, read_checksum(headers), read_body(headers))
    if concat and concat.parts is not None:
        if length is not None or deferred:
            raise InvalidHeaderError("A final upload has no length of its own.", header="Upload-Length")
        if creation.body:
            raise FinalUploadError
    elif (length is not None) == deferred:
        raise InvalidHeaderError("Send either Upload-Length or Upload-Defer-Length: 1.", header="Upload-Length")
    if creation.body and length is not None and (creation.body.length or 0) > length:
        raise SizeExceededError(f"The upload was declared with {length} bytes, and this is more.", size_bytes=length)
    return creation


def read_body(headers: Headers) -> Body | None:
    """Return what the request says of its body, None for none. Raises UnsupportedMediaTypeError for another type."""
    if "transfer-encoding" not in headers and int(headers.get("content-length", "0")) == 0:
        return None
    return read_piece(headers)


def read_piece(headers: Headers) -> Body:
    """Return what the request says of a body that it must have, if only an empty one. Raises as `read_body` does."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaTypeError("Send the bytes as they are, without Content-Encoding.")
    if headers.get("content-type", "").strip().lower() != BODY_TYPE:
        raise UnsupportedMediaTypeError(f"Send the bytes as {BODY_TYPE}.")
    return Body(None if "transfer-encoding" in headers else int(headers.get("content-length", "0")))


def read_one(headers: Headers, name: str) -> str | None:
    """Return a field that may come once. Raises InvalidHeaderError where it comes twice."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise InvalidHeaderError(f"The header {name} came {len(values)} times.", header=name)
    return values[0].strip() if values else None


def read_offset(headers: Headers) -> int:
    """Return `Upload-Offset`. Raises InvalidHeaderError where it is missing, or no integer from 0 to 2^63 - 1."""
    offset = _number(headers, "Upload-Offset")
    if offset is None:
        raise InvalidHeaderError("The header Upload-Offset is missing.", header="Upload-Offset")
    if offset > _LARGEST:
        raise InvalidHeaderError("Upload-Offset must be under 2^63.", header="Upload-Offset")
    return offset


def read_length(headers: Headers, *, max_bytes: int) -> int | None:
    """Return `Upload-Length`, None for none. Raises InvalidHeaderError, past `max_bytes` FileTooLargeError."""
    length = _number(headers, "Upload-Length")
    if length is not None and length > max_bytes:
        raise FileTooLargeError(f"An upload holds at most {max_bytes} bytes.", max_file_bytes=max_bytes)
    return length


def read_deferred(headers: Headers) -> bool:
    """Say whether `Upload-Defer-Length` is there. Raises InvalidHeaderError for any value but 1."""
    value = read_one(headers, "Upload-Defer-Length")
    if value not in {None, "1"}:
        raise InvalidHeaderError("Upload-Defer-Length must be 1.", header="Upload-Defer-Length")
    return value is not None


def read_checksum(headers: Headers) -> Checksum | None:
    """Return `Upload-Checksum`. Raises InvalidHeaderError for an unknown algorithm, or a value that is none of it."""
    value = read_one(headers, "Upload-Checksum")
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in DIGEST_BYTES:
        raise InvalidHeaderError(
            f"Upload-Checksum must begin with one of {', '.join(DIGEST_BYTES)}.", header="Upload-Checksum"
        )
    digest = _base64("Upload-Checksum", encoded.strip())
    if len(digest) != DIGEST_BYTES[algorithm]:
        raise InvalidHeaderError(
            f"A {algorithm} checksum has {DIGEST_BYTES[algorithm]} bytes, not {len(digest)}.", header="Upload-Checksum"
        )
    return Checksum(algorithm, digest)


def read_concat(headers: Headers, *, path: str) -> Concat | None:
    """Return `Upload-Concat`. `path` is where uploads live: what each part's URL, relative or absolute, must lie under.

    Raises InvalidHeaderError for a value that is neither `partial` nor `final;` with URLs, NotFoundError for a URL that
    names no upload of this service.
    """
    value = read_one(headers, "Upload-Concat")
    if value is None:
        return None
    if value == "partial":
        return Concat(value, None)
    kind, _, urls = value.partition(";")
    parts = urls.split()
    if kind.strip() != "final" or not 0 < len(parts) <= _MAX_PARTS:
        raise InvalidHeaderError(
            f"Upload-Concat must be partial, or final; with 1 to {_MAX_PARTS} URLs.", header="Upload-Concat"
        )
    return Concat(value, tuple(_upload_id(part, path) for part in parts))


def read_metadata(headers: Headers) -> Metadata:
    """Return `Upload-Metadata`; several fields are one (RFC 9110 §5.3).

    Raises InvalidHeaderError for a key that is empty, doubled or not ASCII, for a value that is not base64, for text in
    a value with a line break or NUL, for one of ours that is no UTF-8, and for a `ref` of over 255 characters;
    NotFoundError for a `batch_id` that is no id.
    """
    raw = ",".join(headers.getlist("Upload-Metadata")).strip()
    values: dict[str, bytes] = {}
    for pair in raw.split(",") if raw else []:
        key, _, encoded = pair.strip().partition(" ")
        if not _KEY.fullmatch(key):
            raise InvalidHeaderError("Upload-Metadata has a key that is empty or not ASCII.", header="Upload-Metadata")
        if key in values:
            raise InvalidHeaderError(f"Upload-Metadata has the key {key} twice.", header="Upload-Metadata")
        values[key] = _base64("Upload-Metadata", encoded.strip())
        if _BREAKS.search(values[key].decode(errors="replace")) and _is_text(values[key]):
            raise InvalidHeaderError(
                f"Upload-Metadata has a line break or NUL in the value of {key}.", header="Upload-Metadata"
            )
    if len(values) > _MAX_METADATA_KEYS:
        raise InvalidHeaderError(f"Upload-Metadata has over {_MAX_METADATA_KEYS} keys.", header="Upload-Metadata")
    batch_id, ref = _text(values, "batch_id"), _text(values, "ref")
    if ref and len(ref) > MAX_REF_CHARACTERS:
        raise InvalidHeaderError(
            f"Upload-Metadata has a ref of over {MAX_REF_CHARACTERS} characters.", header="Upload-Metadata"
        )
    # The name within its folder says more than the name alone; a dropped folder's begins with a slash.
    path = _text(values, "relativePath")
    content_type = _text(values, "filetype") or _text(values, "type")
    name = path.removeprefix("/").encode() if path else values.get("filename") or values.get("name")
    return Metadata(
        raw=raw,
        batch_id=identity(batch_id) if batch_id else None,
        ref=ref,
        filename=name,
        content_type=media_type(content_type.encode()) if content_type else None,
    )


def _number(headers: Headers, name: str) -> int | None:
    value = read_one(headers, name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise InvalidHeaderError(f"{name} must be an integer of 0 or more.", header=name)
    return int(value)


def _base64(name: str, encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidHeaderError(f"{name} has a value that is not base64.", header=name) from None


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(values: Mapping[str, bytes], key: str) -> str | None:
    try:
        text = values.get(key, b"").decode()
    except UnicodeDecodeError:
        raise InvalidHeaderError(
            f"Upload-Metadata has a value of {key} that is not UTF-8.", header="Upload-Metadata"
        ) from None
    return None if text in _NONE else text


def _upload_id(url: str, path: str) -> UUID:
    """Return the upload that a URL names by the end of its path; a proxy may have put more before ours."""
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    before, slash, last = plain.rpartition("/")
    if not slash or not before.endswith(path):
        raise NotFoundError
    return identity(last)

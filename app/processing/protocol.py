"""What parent and child say to each other: JSON lines, one for each file to look into, one for each that is done.

The child works through its lines in order, so the first file without an answer is the one it is working on. Nothing
that a child says is taken on trust: it may have been taken over by a file.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from app.domain.guards import Guards
from app.domain.limits import ImageLimits
from app.domain.processing_errors import ProcessorFailedError, ProcessorOutOfMemoryError
from app.domain.upload import Refusal, Upload
from app.processing.outcome import Found, Outcome
from app.processing.processor import Facts

READY: Final = b"ready\n"
"""What a child says once, when it may be given files."""
METADATA_BYTES: Final = 16 * 1024
THUMBNAIL_BYTES: Final = 1 << 20
LINE_BYTES: Final = 2 << 20
_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SLUG_LENGTH: Final = 64
_MEDIA_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_SENTENCE_LENGTH: Final = 500
_LARGEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child is told at its start."""

    folder: str
    """Of the local store."""
    processors: tuple[str, ...]
    """By their names; what runs, in this order, where an upload's batch has not chosen."""
    seconds: float
    """How long one file may take."""
    memory_bytes: int
    """How much address space the child may have."""
    image: ImageLimits
    guards: Guards = field(default_factory=Guards)
    log_level: str = "info"

    def to_json(self) -> str:
        """Return them as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Orders":
        """Read what `to_json` made."""
        fields = json.loads(text)
        return cls(
            **fields
            | {
                "processors": tuple(fields["processors"]),
                "image": ImageLimits(**fields["image"]),
                "guards": Guards(fields["guards"]["scanner"], tuple(fields["guards"]["types"])),
            }
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One file to look into."""

    facts: Facts
    object_id: UUID
    offset: int
    processors: tuple[str, ...] | None
    """None: as ordered."""

    @classmethod
    def from_json(cls, line: bytes) -> "Task":
        """Read what `task_line` made."""
        fields = json.loads(line)
        facts = Facts(upload_id=UUID(fields["id"]), **fields["facts"])
        chosen = fields["processors"]
        return cls(facts, UUID(fields["object"]), fields["offset"], None if chosen is None else tuple(chosen))


def task_line(upload: Upload, processors: Sequence[str] | None) -> bytes:
    """Return the line that asks for an upload, whose bytes are stored."""
    fields = {
        "id": str(upload.id),
        "object": str(upload.object_id),
        "offset": upload.object_offset,
        "processors": processors,
        "facts": {
            "filename": upload.filename,
            "declared_type": upload.content_type,
            "size_bytes": upload.received_bytes,
            "sha256": upload.sha256.hex() if upload.sha256 else "",
            "attempt": upload.attempts,
        },
    }
    return json.dumps(fields).encode() + b"\n"


def answer_line(
    facts: Facts, thumbnail: bytes | None, *, code: str | None = None, detail: str = "", passing: bool = False
) -> bytes:
    """Return the line that says how it went: what was found, up to the error if there is one.

    Raises TypeError or ValueError for metadata that JSON cannot hold.
    """
    answer: dict[str, object] = {
        "found": {
            "detected_type": facts.detected_type,
            "width": facts.width,
            "height": facts.height,
            "metadata": facts.metadata,
        }
    }
    if thumbnail:
        answer["thumbnail"] = base64.b64encode(thumbnail).decode()
    if code is not None:
        answer["error"] = [code, detail[:_SENTENCE_LENGTH], passing]
    line = json.dumps(answer, allow_nan=False).encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise ValueError(f"the results take {len(line)} bytes, more than {LINE_BYTES}")
    return line


LOST: Final = b'"lost"\n'
"""The bytes are out of reach."""
OUT_OF_MEMORY: Final = b'"memory"\n'
"""The child has run out of memory, and ends."""


def read_answer(upload: Upload, line: bytes) -> Outcome:
    """Return what a child's line says of an upload.

    Whatever else it says is `processor-failed`, and final: a processor that answers what cannot be kept will again.
    """
    if line == LOST:
        return Outcome(upload, blameless=True)
    if line == OUT_OF_MEMORY:
        exhausted = ProcessorOutOfMemoryError("Looking into the file took more memory than is allowed.")
        return Outcome(upload, error=Refusal.of(exhausted), passing=True)
    try:
        answer = json.loads(line)
        found = _found(answer["found"], answer.get("thumbnail"))
        if "error" not in answer:
            return Outcome(upload, found)
        code, detail, passing = answer["error"]
        return Outcome(upload, found, Refusal(_slug(code), _text(detail)), passing=passing is True)
    except (ValueError, LookupError, TypeError, AttributeError) as fault:
        error = ProcessorFailedError(_text(f"A processor returned what cannot be kept: {fault}."))
        return Outcome(upload, error=Refusal.of(error))


def _found(fields: dict[str, Any], thumbnail: str | None) -> Found:
    return Found(
        detected_type=_media_type(fields["detected_type"]),
        width=_pixels(fields["width"]),
        height=_pixels(fields["height"]),
        metadata=_metadata(fields["metadata"]),
        thumbnail=None if thumbnail is None else _webp(base64.b64decode(thumbnail, validate=True)),
    )


def _media_type(value: object) -> str | None:
    if value is None or (isinstance(value, str) and _MEDIA_TYPE.fullmatch(value)):
        return value
    raise ValueError("a detected type that is no media type")


def _pixels(value: object) -> int | None:
    if value is None or (isinstance(value, int) and 1 <= value <= _LARGEST):
        return value
    raise ValueError("a width or a height that is no number of pixels")


def _metadata(value: object) -> dict[str, object]:
    """Return metadata that a jsonb column can hold: no NUL, no lone surrogates, not too much."""
    if not isinstance(value, dict):
        raise TypeError("metadata that is no object")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > METADATA_BYTES:
        raise ValueError(f"metadata of more than {METADATA_BYTES} bytes of JSON")
    if any("\0" in part for part in _strings(value)):
        raise ValueError("metadata with a NUL character in it")
    return value


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return []


def _webp(data: bytes) -> bytes:
    if len(data) > THUMBNAIL_BYTES or not data.startswith(b"RIFF") or data[8:12] != b"WEBP":
        raise ValueError(f"a thumbnail that is no WebP image of at most {THUMBNAIL_BYTES} bytes")
    return data


def _slug(value: object) -> str:
    if isinstance(value, str) and len(value) <= _SLUG_LENGTH and _SLUG.fullmatch(value):
        return value
    raise ValueError("an error whose code is no slug")


def _text(value: str) -> str:
    """Return a sentence that a text column can hold."""
    return value[:_SENTENCE_LENGTH].replace("\0", "").encode(errors="replace").decode()

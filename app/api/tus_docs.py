"""What OpenAPI says of tus: header fields in and out, which the handlers read and write by themselves."""

from collections.abc import Mapping
from typing import Any, Final

from app.api.openapi import CHECKSUM_MISMATCH, Responses, responses
from app.api.tus_headers import BODY_TYPE, VERSION


def _field(
    name: str, description: str, *, required: bool = False, kind: str = "string", **limits: object
) -> dict[str, Any]:
    schema = {"type": kind, **limits}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _told(*names: str) -> dict[str, Any]:
    return {name: {"description": _SAYS[name], "schema": {"type": "string"}} for name in ("Tus-Resumable", *names)}


def _body(description: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"required": False, "description": description, "content": {BODY_TYPE: {"schema": schema}}}


def _answers(status: int, description: str, told: Mapping[str, Any], *problems: int) -> Responses:
    return responses(*problems, also={status: {"description": description, "headers": dict(told)}})


_SAYS: Final = {
    "Tus-Resumable": "The version spoken",
    "Tus-Version": "The versions spoken",
    "Tus-Extension": "The extensions spoken",
    "Tus-Max-Size": "The largest upload, in bytes",
    "Tus-Checksum-Algorithm": "What Upload-Checksum may name",
    "Location": "The upload; relative unless a trusted proxy says where clients see the service",
    "Upload-Offset": "How many bytes are durable",
    "Upload-Length": "The size of the whole, in bytes",
    "Upload-Defer-Length": "1 while the size is not known",
    "Upload-Expires": "From then on no more bytes are taken",
    "Upload-Metadata": "As it came with the creation",
    "Upload-Concat": "As it came with the creation",
}
_VERSION: Final = _field("Tus-Resumable", "The version that you speak.", required=True, const=VERSION)
_CHECKSUM: Final = _field(
    "Upload-Checksum",
    "`sha1`, `sha256` or `crc32`, a space, and base64, over this body alone.",
    examples=["crc32 AAAAAA=="],
)

ABILITIES: Final = _answers(
    204, "What is spoken", _told("Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
)
_TAKING: Final = (400, 403, 404, 409, 410, 412, 413, 415, 423, CHECKSUM_MISMATCH, 507)
CREATED: Final = _answers(201, "Made", _told("Location", "Upload-Offset", "Upload-Expires"), *_TAKING, 422)
STANDING: Final = _answers(
    200,
    "Where to go on",
    _told(
        "Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Expires", "Upload-Metadata", "Upload-Concat"
    ),
    404,
    410,
    412,
    423,
)
APPENDED: Final = _answers(204, "Durable", _told("Upload-Offset", "Upload-Expires"), *_TAKING)
TERMINATED: Final = _answers(204, "Gone", _told(), 404, 412, 423)
SPOKEN: Final = {"parameters": [_VERSION]}
CREATION: Final = {
    "parameters": [
        _VERSION,
        _field("Upload-Length", "The size in bytes; either this or Upload-Defer-Length.", kind="integer", minimum=0),
        _field("Upload-Defer-Length", "`1`: the size comes with a later piece.", const="1"),
        _field(
            "Upload-Metadata",
            "Pairs of a key and base64, with commas between them: `batch_id`, `ref`, `filename`, `filetype`, "
            "`relativePath`; others are kept and given back.",
            examples=["filename cGhvdG8uanBn,filetype aW1hZ2UvanBlZw=="],
        ),
        _field(
            "Upload-Concat",
            "`partial`, or `final;` and the URLs of partial uploads with spaces between them.",
            examples=["partial"],
        ),
        _CHECKSUM,
    ],
    "requestBody": _body("The first bytes, if you like."),
}
PIECE: Final = {
    "parameters": [
        _VERSION,
        _field(
            "Upload-Offset",
            "Where these bytes go, which must be where the others end.",
            required=True,
            kind="integer",
            minimum=0,
        ),
        _field("Upload-Length", "The size, where it was deferred.", kind="integer", minimum=0),
        _CHECKSUM,
    ],
    "requestBody": _body("The bytes."),
}

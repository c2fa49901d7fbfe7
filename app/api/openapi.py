"""What the OpenAPI document says beyond what the handlers' types say."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from app.api import idempotency
from app.api.authentication import FOLLOWED, is_open
from app.api.links import link
from app.api.problems import MEDIA_TYPE, OF_ANY_REQUEST, Problem

NOT_MODIFIED: Final = {304: {"description": "You have it already"}}
CHECKSUM_MISMATCH: Final = 460
OWN: Final = {CHECKSUM_MISMATCH: "Checksum Mismatch"}
"""Statuses that HTTP does not know; this one is of tus."""
Responses = dict[int | str, dict[str, Any]]


def responses(
    *problems: int, also: Mapping[int, Mapping[str, object]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route: the problems that it may answer with, those of any route, and `also`."""
    described: Responses = {status: _problem(status) for status in sorted({*problems, 500, 503})}
    return described | {status: dict(response) for status, response in (also or {}).items()}


def _problem(status: int) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": OWN.get(status) or HTTPStatus(status).phrase, "content": content}


def multipart_body(**fields: dict[str, object]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads a multipart body: text `fields`, then any number of files."""
    # Swagger UI offers a file chooser only where it sees `format: binary`; OpenAPI 3.1 itself wants contentMediaType.
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    properties = {**fields, "files": {"type": "array", "items": file, "description": "Under any field name."}}
    schema = {"type": "object", "properties": properties, "required": ["files"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_BYTES: Final = {"type": "integer", "minimum": 0}
_DIGEST: Final = {"type": "string", "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"]}
_HEADERS: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "Upload-Offset": (_BYTES, "Where the piece begins: how many bytes are there already."),
    "Upload-Length": (_BYTES, "The size, where it was not declared before."),
    "Repr-Digest": (_DIGEST, "SHA-256 of the whole file, `sha-256=:base64:` (RFC 9530); other bytes are refused."),
    "Content-Digest": (_DIGEST, "SHA-256 of this body, `sha-256=:base64:` (RFC 9530)."),
    "Want-Repr-Digest": ({"type": "string"}, "`sha-256=10`: answer with `Repr-Digest`."),
}


def raw_body(*headers: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose body is the bytes of a file, and that reads these headers."""
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    return {
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": file}}},
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
            for name, (schema, description) in ((name, _HEADERS[name]) for name in headers)
        ],
    }


_KNOWN_CALLERS: Final = {401, 403, 429}
"""Refusals of operations that are not for everybody."""
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": (
        "An API key, a JWT of an issuer that the service trusts, or a token for one batch. GET and HEAD need the scope "
        "`read`, all else `write`, and `/v1/webhooks` needs `admin`. Not needed where the service lets everybody in."
    ),
}
_QUERY: Final = {
    "type": "apiKey",
    "in": "query",
    "name": "access_token",
    "description": "A token for one batch, where a browser's EventSource can send no header (RFC 6750 §2.3).",
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with links, problems in place of the framework's own kind, and who each operation is for.

    Every POST takes an Idempotency-Key, and may be refused for it.
    """
    document["components"]["securitySchemes"] = {"bearer": _BEARER, "batch_token": _QUERY}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            free = is_open(path) or method == "options"
            operation["security"] = [] if free else [{"bearer": []}]
            if operation["operationId"] == FOLLOWED:
                operation["security"].append({"batch_token": []})
            refusals = OF_ANY_REQUEST | (set() if free else _KNOWN_CALLERS)
            found = {str(status): _problem(status) for status in refusals} | operation["responses"]
            operation["responses"] = {status: found[status] for status in sorted(found)}
    for path in [*document["paths"].values(), *document["webhooks"].values()]:
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for operations in document["paths"].values():
        if operation := operations.get("post"):
            operation["parameters"] = [*operation.get("parameters", ()), idempotency.PARAMETER]
            found = {str(status): _problem(status) for status in idempotency.REFUSALS} | operation["responses"]
            operation["responses"] = {status: found[status] for status in sorted(found)}
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    link(document)
    return document

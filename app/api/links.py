"""OpenAPI links: where to go on from an answer, said once for each kind of id and put into the document."""

from typing import Any, Final

_OF_A_BATCH: Final = (
    *("read_batch", "follow_batch", "list_uploads", "add_uploads", "declare_files", "put_file"),
    *("seal_batch", "cancel_batch", "retry_batch", "delete_batch", "create_token"),
)
_OF_AN_UPLOAD: Final = (
    *("read_upload", "put_content", "read_content", "read_thumbnail", "list_attempts", "delete_upload"),
    *("read_offset", "append_bytes", "terminate_upload"),
)
_TARGETS: Final = {
    "batch_id": _OF_A_BATCH,
    "upload_id": _OF_AN_UPLOAD,
    "webhook_id": ("read_webhook", "delete_webhook"),
    "delivery_id": ("read_delivery", "redeliver"),
}
"""By the parameter that their paths have: which operations take an id of that kind."""
_SOURCES: Final = (
    ("open_batch", "201", "batch_id", "/id"),
    ("list_batches", "200", "batch_id", "/items/0/id"),
    ("upload_files", "201", "batch_id", "/batch/id"),
    ("upload_files", "201", "upload_id", "/results/0/upload/id"),
    ("add_uploads", "201", "upload_id", "/results/0/upload/id"),
    ("list_uploads", "200", "upload_id", "/items/0/id"),
    ("declare_files", "200", "upload_id", "/entries/0/upload_id"),
    ("put_file", "201", "upload_id", "/id"),
    ("create_webhook", "201", "webhook_id", "/id"),
    ("list_deliveries", "200", "delivery_id", "/items/0/id"),
)
"""Operation, status, and where in its body an id of which kind is."""


def link(document: dict[str, Any]) -> None:
    """Add the links to an OpenAPI document (OpenAPI 3.1 §4.8.20). Raises KeyError where an operation is not there."""
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    for source, status, parameter, pointer in _SOURCES:
        links = operations[source]["responses"][status].setdefault("links", {})
        for target in _TARGETS[parameter]:
            assert target in operations, target
            links[target] = {"operationId": target, "parameters": {parameter: f"$response.body#{pointer}"}}

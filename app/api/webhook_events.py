"""The messages that are sent to receivers, for the `webhooks` section of the OpenAPI document. Nobody calls these."""

from typing import Annotated, Final

from fastapi import APIRouter, Header

from app.api.webhook_schemas import Message
from app.domain.webhook import EventType

router: Final = APIRouter(tags=["webhooks"])

_WORDS: Final = {
    EventType.COMPLETED: "All files of a batch are processed, and at least one succeeded or there was none.",
    EventType.FAILED: "All files of a batch are processed, and none succeeded.",
    EventType.CANCELLED: "A batch was cancelled.",
}
_OUTCOMES: Final[dict[int | str, dict[str, object]]] = {
    "2XX": {"description": "Delivered. The body is not looked at."},
    "410": {"description": "Given up; the webhook is disabled."},
    "429": {"description": "Tried again, not before `Retry-After` and at the latest after four hours."},
    "503": {"description": "The same."},
    "default": {"description": "Tried again with growing waits for a day. Redirects are not followed."},
}


async def _message(
    _body: Message,
    _id: Annotated[str, Header(alias="webhook-id", description="The same for every attempt at this message.")],
    _timestamp: Annotated[int, Header(alias="webhook-timestamp", description="When this was sent, Unix seconds.")],
    _signature: Annotated[
        str,
        Header(
            alias="webhook-signature",
            description="`v1,<base64>`: HMAC-SHA256 over `id.timestamp.body`. Several, with spaces, after a rotation.",
        ),
    ],
) -> None:
    """Be described."""


for _event, _description in _WORDS.items():
    router.post(
        _event.value,
        operation_id=_event.value.replace(".", "_"),
        summary=_event.value,
        description=_description,
        status_code=204,
        responses=_OUTCOMES,
    )(_message)

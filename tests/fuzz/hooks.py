"""What schemathesis is to know of this API: how bytes are sent to tus, and whom not to wait or to call for."""

from typing import Any, Final

import schemathesis
from schemathesis import Case, HookContext, SerializationContext

RECEIVER: Final = "https://receiver.invalid/hook"
"""A name that never resolves (RFC 2606): no test calls anybody."""


@schemathesis.serializer("application/offset+octet-stream")
def send_as_is(_context: SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(_context: HookContext, case: Case, _kwargs: dict[str, Any]) -> None:
    """Let nobody wait for a minute, and point webhooks to nowhere."""
    headers = case.headers or {}
    if "Prefer" in headers:
        headers["Prefer"] = "wait=0"
    body = case.body
    if isinstance(body, dict):
        for field in ("url", "webhook_url"):
            if isinstance(body.get(field), str) and body[field].startswith("http"):
                body[field] = RECEIVER

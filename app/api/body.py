"""JSON bodies, read with a bound and validated in one go."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel

from app.domain.errors import RequestTooLargeError, StorageUnavailableError, UnsupportedMediaTypeError

Model = TypeVar("Model", bound=BaseModel)

_AT_ONCE_BYTES: Final = 64 * 1024
_LARGE_AT_ONCE: Final = 2
"""So many large ones are understood at a time, each of which may come to forty megabytes of objects."""
_TURN: Final = "boatload.turn"
_REFERENCE: Final = "#/$defs/"
_COMMA: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|(,)', re.DOTALL)
MAX_COMMAS: Final = 60_000
"""A manifest that is as long as it may be, of entries with all that they may have, takes 50,000."""


async def read_json(request: Request, model: type[Model], *, max_bytes: int = 64 * 1024) -> Model:
    """Return the body as `model`; no body counts as `{}`.

    Raises RequestTooLargeError past `max_bytes`, or for more values than any body has that makes sense: each costs a
    hundred bytes of memory, and a thousand where it is wrong. Raises UnsupportedMediaTypeError for what is not JSON,
    pydantic's ValidationError, which is answered 422, and what `read_body` raises.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaTypeError("Send the body as it is, without Content-Encoding.")
    body = await read_body(request, max_bytes=max_bytes)
    if not body:
        return model()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError("Send the body as application/json.")
    if len(body) > _AT_ONCE_BYTES:
        return await asyncio.to_thread(_validated, body, model)
    return model.model_validate_json(body)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the whole body, and within `taking_turns` a large one only when it is its turn.

    Until then it is in a temporary file: how many send large ones, and how slowly, costs no memory. Raises
    RequestTooLargeError past `max_bytes`, StorageUnavailableError where there is no room for such a file.
    """
    try:
        return await _read(request, max_bytes)
    except OSError as error:  # at any write to the file, that of its end among them
        raise StorageUnavailableError from error


async def _read(request: Request, max_bytes: int) -> bytes:
    size = 0
    with SpooledTemporaryFile(_AT_ONCE_BYTES) as spool:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise RequestTooLargeError(f"The body is over {max_bytes} bytes.", max_request_bytes=max_bytes)
            spool.write(chunk)  # to memory or the page cache: no wait
        turn: AsyncExitStack | None = request.scope.pop(_TURN, None)
        if turn and size > _AT_ONCE_BYTES:
            await turn.enter_async_context(request.app.state.large_bodies)
        spool.seek(0)
        return spool.read()


def large_bodies() -> asyncio.Semaphore:
    """Return what an application's large bodies take turns with: `app.state.large_bodies`."""
    return asyncio.Semaphore(_LARGE_AT_ONCE)


@asynccontextmanager
async def taking_turns(request: Request) -> AsyncGenerator[None]:
    """Let what is done here with a large body of the request, read once, be done by few requests at a time."""
    async with AsyncExitStack() as turn:
        request.scope[_TURN] = turn
        yield


def _validated(body: bytes, model: type[Model]) -> Model:
    if body.count(b",") > MAX_COMMAS and has_many_values(body):
        raise RequestTooLargeError(f"The body holds more than {MAX_COMMAS} values.")
    return model.model_validate_json(body)


def has_many_values(body: bytes) -> bool:
    """Say whether there are more than MAX_COMMAS values in JSON, after work that is bounded by that.

    Between any two values of it is a comma that is in no text.
    """
    commas = 0
    for number, match in enumerate(_COMMA.finditer(body)):
        commas += match[1] is not None
        if commas > MAX_COMMAS or number > 4 * MAX_COMMAS:
            return True
    return False


def describe_body(model: type[BaseModel], *, required: bool = False) -> dict[str, object]:
    """Return what OpenAPI is to say of a body that `read_json` reads."""
    schema = _inlined(model.model_json_schema())
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": required}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without definitions of its own, which OpenAPI keeps elsewhere."""
    definitions: dict[str, Any] = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(node, dict):
            reference = node.get("$ref", "")
            if reference.startswith(_REFERENCE):
                return resolve(definitions[reference.removeprefix(_REFERENCE)])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved

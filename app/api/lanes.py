"""What is asked most, answered without the framework, which takes longer over it than all else."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import UUID

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import polling, putting, tus_piece
from app.api.authentication import is_open
from app.api.dependencies import identity, owner_of
from app.api.operations import OPERATION, Operation, Operations
from app.api.problems import answer_status, client_gone
from app.bootstrap import Services
from app.domain.errors import NotFoundError

LANES: Final[Mapping[str, Callable[[Services, UUID, UUID, Request], Awaitable[ASGIApp | None]]]] = {
    "read_batch": polling.poll,
    "put_file": putting.put_file,
    "append_bytes": tus_piece.take_piece,
}
"""By operation: what answers it, by the id in its path, as its route does; None: the route shall."""


class Lanes:
    """ASGI middleware, the last before the framework: answers what has a lane, and what is no operation at all."""

    def __init__(self, app: ASGIApp, *, operations: Operations) -> None:
        self._app: Final = app
        self._operations: Final = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        answer = await self._find_answer(scope, receive) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    async def _find_answer(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        operation: Operation | None = scope[OPERATION]
        if operation is None:
            return self._refuse(scope["path"])
        lane = LANES.get(operation.name)
        if lane is None:
            return None
        request = Request(scope, receive)
        services: Services = scope["app"].state.services
        try:
            return await lane(services, owner_of(scope), identity(next(iter(scope["path_params"].values()))), request)
        except NotFoundError:  # the id is none; the route knows how to say it
            return None
        except ClientDisconnect as gone:
            return await client_gone(request, gone)

    def _refuse(self, path: str) -> ASGIApp | None:
        """Return 405 (RFC 9110 §15.5.6: with all methods that the path takes) or 404; None for the framework's own."""
        if methods := self._operations.methods_of(path):
            return answer_status(405, {"Allow": ", ".join(methods)})
        return None if is_open(path) else answer_status(404)

"""How tus answers errors: in its own statuses where it has them, and never without saying which version is spoken."""

from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api.openapi import CHECKSUM_MISMATCH
from app.api.problems import answer, of_error
from app.api.tus_headers import VERSION
from app.domain.errors import BoatloadError, ChecksumMismatchError, SizeConflictError, UnsupportedTusVersionError

STATUSES: Final[dict[type[BoatloadError], int]] = {
    ChecksumMismatchError: CHECKSUM_MISMATCH,
    # 409 would have clients ask for the offset and send the same again.
    SizeConflictError: HTTPStatus.BAD_REQUEST,
}
"""Where tus has another status than the rest."""


class TusRoute(APIRoute):
    """A route of tus 1.0.0."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Let only those in who speak the version (any may ask by OPTIONS), and answer errors of ours."""
        handle = super().get_route_handler()

        async def spoken(request: Request) -> Response:
            return await answered(request, handle)

        return spoken


async def answered(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Return the answer to a request that speaks the version (any may ask by OPTIONS), or what is said instead."""
    try:
        if request.method != "OPTIONS" and request.headers.get("tus-resumable") != VERSION:
            raise UnsupportedTusVersionError
        return await answer(request)
    except BoatloadError as error:
        return _refuse(error)


def _refuse(error: BoatloadError) -> Response:
    problem = of_error(error)
    problem = problem.model_copy(update={"status": STATUSES.get(type(error), problem.status)})
    headers = {"Cache-Control": "no-store"}
    if problem.status == HTTPStatus.PRECONDITION_FAILED:
        headers["Tus-Version"] = VERSION
    return answer(problem, headers)

"""How far a token for one batch reaches: what of the API it opens at all, and whether that is of its batch."""

import re
from typing import Final

from app.api.dependencies import identity
from app.bootstrap import Services
from app.domain.access import Caller
from app.domain.errors import ForbiddenError, NotFoundError

_ID: Final = "([^/]*)"
_OF_A_BATCH: Final = re.compile(
    rf"GET /v1/batches/{_ID}|GET /v1/batches/{_ID}/(?:uploads|events)"
    rf"|POST /v1/batches/{_ID}/(?:uploads|manifest|tokens)|PUT /v1/batches/{_ID}/files/[\s\S]*"
)
_OF_AN_UPLOAD: Final = re.compile(
    rf"GET /v1/uploads/{_ID}|(?:GET|HEAD|PUT) /v1/uploads/{_ID}/content|GET /v1/uploads/{_ID}/(?:thumbnail|attempts)"
    rf"|(?:HEAD|PATCH) /v1/tus/{_ID}"
)
_NAMED_INSIDE: Final = frozenset({"POST /v1/uploads", "POST /v1/tus"})
"""Here the batch is named in the request; their routes ask `Caller.check_target`."""


async def check_reach(caller: Caller, method: str, path: str, services: Services) -> None:
    """Return if the caller's token opens this.

    Raises ForbiddenError for what is about more than one batch, or changes what is there; NotFoundError for another
    batch and its uploads, whoever owns them; DatabaseUnavailableError.
    """
    request = f"{method} {path}"
    if caller.batch_id is None or request in _NAMED_INSIDE:
        return
    if match := _OF_A_BATCH.fullmatch(request):
        if identity(_first(match)) != caller.batch_id:
            raise NotFoundError
    elif match := _OF_AN_UPLOAD.fullmatch(request):
        upload = await services.uploads.get(caller.owner, identity(_first(match)))
        if upload.batch_id != caller.batch_id:
            raise NotFoundError
    else:
        raise ForbiddenError("This token may only add to its batch and read it.")


def _first(match: "re.Match[str]") -> str:
    return next(group for group in match.groups() if group is not None)

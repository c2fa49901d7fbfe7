"""How far a token for one batch reaches: what of the API it opens at all, and whether that is of its batch."""

from collections.abc import Mapping
from typing import Final

from app.api.dependencies import identity
from app.bootstrap import Services
from app.domain.access import Caller
from app.domain.errors import ForbiddenError, NotFoundError

_OF_A_BATCH: Final = frozenset(
    {"read_batch", "list_uploads", "follow_batch", "add_uploads", "declare_files", "create_token", "put_file"}
)
_OF_AN_UPLOAD: Final = frozenset(
    {
        *("read_upload", "read_content", "head_content", "put_content", "read_thumbnail", "list_attempts"),
        *("read_offset", "append_bytes"),
    }
)
_NAMED_INSIDE: Final = frozenset({"upload_files", "create_upload"})
"""Here the batch is named in the request; their routes ask `Caller.check_target`."""


async def check_reach(caller: Caller, operation: str, ids: Mapping[str, str], services: Services) -> None:
    """Return if the caller's token opens this operation on what the path names.

    Raises ForbiddenError for what is about more than one batch, or changes what is there; NotFoundError for another
    batch and its uploads, whoever owns them; DatabaseUnavailableError.
    """
    if caller.batch_id is None or operation in _NAMED_INSIDE:
        return
    if operation in _OF_A_BATCH:
        if identity(ids["batch_id"]) != caller.batch_id:
            raise NotFoundError
    elif operation in _OF_AN_UPLOAD:
        upload = await services.uploads.get(caller.owner, identity(ids["upload_id"]))
        if upload.batch_id != caller.batch_id:
            raise NotFoundError
    else:
        raise ForbiddenError("This token may only add to its batch and read it.")

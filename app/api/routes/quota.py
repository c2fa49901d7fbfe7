"""`/v1/quota`: what you hold, and what you may."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from pydantic import Field, TypeAdapter

from app.api.dependencies import Ctx, page
from app.api.openapi import responses
from app.domain.quota import Standing

router: Final = APIRouter(prefix="/v1/quota", tags=["quota"])


@dataclass(frozen=True, slots=True)
class Share:
    """One of the quotas."""

    limit: Annotated[int | None, Field(description="The most that you may hold; null: there is no limit.")]
    used: Annotated[int | None, Field(description="What you hold; null while this service has no quotas at all.")]


@dataclass(frozen=True, slots=True)
class Quota:
    """Your quotas, and how much of each is used."""

    bytes: Annotated[Share, Field(description="Of files that are stored, and of those that are declared.")]
    files: Annotated[Share, Field(description="Uploads that are stored or declared; not what was refused.")]
    open_batches: Annotated[Share, Field(description="Batches that are not finished.")]
    open_uploads: Annotated[Share, Field(description="Declared uploads whose bytes are still to come.")]


_QUOTA: Final = TypeAdapter(Quota)


@router.get("", response_model=Quota, responses=responses())
async def read_quota(ctx: Ctx, request: Request) -> Response:
    """Read your quotas, and how much of them is used."""
    return page(_QUOTA.dump_json(_shown(await ctx.services.quotas.find(ctx.owner))), request, None)


def _shown(standing: Standing | None) -> Quota:
    if standing is None:
        nothing = Share(None, None)
        return Quota(nothing, nothing, nothing, nothing)
    most, used = standing.quota, standing.used
    return Quota(
        Share(most.bytes, used.bytes),
        Share(most.files, used.files),
        Share(most.open_batches, used.open_batches),
        Share(most.open_uploads, used.open_uploads),
    )

"""Liveness and readiness, for whoever runs it."""

from typing import Final

from fastapi import APIRouter, Response

from app.api import schemas
from app.api.dependencies import Ctx
from app.api.openapi import responses
from app.api.problems import answer, describe

router: Final = APIRouter(tags=["health"])


@router.get("/healthz", responses=responses())
async def healthz() -> schemas.Health:
    """Say that the process runs."""
    return schemas.Health("ok")


@router.get("/readyz", response_model=schemas.Health, responses=responses())
async def readyz(ctx: Ctx) -> schemas.Health | Response:
    """Say that it can serve: its background loops run, and the database answers."""
    if not ctx.services.alive:
        detail = "A background loop has ended. Restart the process; the log says why."
        return answer(describe("not-ready", detail))
    await ctx.services.check()
    return schemas.Health("ok")

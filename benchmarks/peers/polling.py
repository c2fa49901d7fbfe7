"""A plain FastAPI route that selects a batch's row and answers with it through pydantic: what polling usually costs.

Reads `PEER_DATABASE_URL`, the database of the service beside it, whose table it reads. Takes `If-None-Match`.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, Json


class Batch(BaseModel):
    """The row, as the service shows it but for what it computes."""

    id: uuid.UUID
    user_id: uuid.UUID
    label: str | None
    status: str
    expected_uploads: int | None
    total_uploads: int
    receiving_uploads: int
    pending_uploads: int
    processing_uploads: int
    processed_uploads: int
    successful_uploads: int
    failed_uploads: int
    cancelled_uploads: int
    total_bytes: int
    received_bytes: int
    error_message: str | None
    metadata: Json[Any]
    version: int
    created_at: datetime
    started_at: datetime | None
    sealed_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    expires_at: datetime | None


FIND = f"SELECT {', '.join(Batch.model_fields)} FROM upload_batches WHERE id = $1"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool for as long as the service runs."""
    async with asyncpg.create_pool(os.environ["PEER_DATABASE_URL"]) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Answer once the pool is open."""
    return {"ready": True}


@app.get("/v1/batches/{batch_id}")
async def read(batch_id: uuid.UUID, response: Response, if_none_match: Annotated[str | None, Header()] = None) -> Batch:
    """Return the row, or 304 to who has it."""
    row = await app.state.pool.fetchrow(FIND, batch_id)
    if row is None:
        raise HTTPException(404)
    batch = Batch.model_validate(dict(row))
    etag = f'"{batch.version}"'
    if if_none_match == etag:
        return Response(status_code=304, headers={"ETag": etag})  # type: ignore[return-value]  # FastAPI takes it as is
    response.headers["ETag"] = etag
    return batch

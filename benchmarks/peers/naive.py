"""The usual naive upload service: each file read whole, written without a sync, its row inserted by itself.

Reads `PEER_DATABASE_URL` and `PEER_DIR` (an existing folder) from the environment. Answers 201 with
`{"batch_id", "files": [{"id", "filename", "size_bytes"}]}`.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
from fastapi import FastAPI, UploadFile
from fastapi.responses import FileResponse

FOLDER: Final = Path(os.environ["PEER_DIR"])
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (id uuid PRIMARY KEY, total_uploads integer NOT NULL);
CREATE TABLE IF NOT EXISTS uploads (
  id uuid PRIMARY KEY,
  batch_id uuid NOT NULL REFERENCES batches (id),
  filename text NOT NULL,
  size_bytes bigint NOT NULL
);
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool for as long as the service runs."""
    async with asyncpg.create_pool(os.environ["PEER_DATABASE_URL"]) as pool:
        await pool.execute(SCHEMA)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan, form_limits={"max_files": 2000})


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Answer once the pool is open."""
    return {"ready": True}


@app.post("/uploads", status_code=201)
async def upload(files: list[UploadFile]) -> dict[str, object]:
    """Store the files one after the other."""
    batch_id = uuid.uuid4()
    stored = []
    async with app.state.pool.acquire() as connection:
        await connection.execute("INSERT INTO batches (id, total_uploads) VALUES ($1, 0)", batch_id)
        for file in files:
            upload_id = uuid.uuid4()
            data = await file.read()
            (FOLDER / upload_id.hex).write_bytes(data)  # blocking the loop is what the naive one does
            await connection.execute(
                "INSERT INTO uploads (id, batch_id, filename, size_bytes) VALUES ($1, $2, $3, $4)",
                upload_id,
                batch_id,
                file.filename,
                len(data),
            )
            stored.append({"id": upload_id, "filename": file.filename, "size_bytes": len(data)})
        await connection.execute("UPDATE batches SET total_uploads = $2 WHERE id = $1", batch_id, len(files))
    return {"batch_id": batch_id, "files": stored}


@app.get("/uploads/{upload_id}/content")
async def content(upload_id: uuid.UUID) -> FileResponse:
    """Send the bytes back."""
    return FileResponse(FOLDER / upload_id.hex, media_type="application/octet-stream")

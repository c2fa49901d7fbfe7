"""A good FastAPI `UploadFile` service: what an expert writes with the framework's own means, and nothing slow in it.

Starlette spools each part into a temporary file; from there it goes in 1 MiB reads, in a thread, through SHA-256 into
a file of its own, which is synced. When all of a request are durable, their directory is synced once and one
transaction writes every row with two statements.

Reads `PEER_DATABASE_URL` and `PEER_DIR` (an existing folder) from the environment, and `PEER_FILES_AT_ONCE`: one file
after the other, as a handler's loop has it, or several on the way at once, so that their syncs overlap. Answers 201
with `Receipt`.
"""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import asyncpg
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel

READ_BYTES: Final = 1 << 20
FILES_AT_ONCE: Final = int(os.environ.get("PEER_FILES_AT_ONCE", "1"))
FOLDER: Final = Path(os.environ["PEER_DIR"])
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (
  id uuid PRIMARY KEY,
  total_uploads integer NOT NULL,
  total_bytes bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS uploads (
  id uuid PRIMARY KEY,
  batch_id uuid NOT NULL REFERENCES batches (id),
  filename text NOT NULL,
  content_type text,
  size_bytes bigint NOT NULL,
  sha256 bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS uploads_batch_id ON uploads (batch_id);
"""
INSERT_BATCH: Final = "INSERT INTO batches (id, total_uploads, total_bytes) VALUES ($1, $2, $3)"
INSERT_UPLOADS: Final = """
INSERT INTO uploads (id, batch_id, filename, content_type, size_bytes, sha256)
SELECT id, $1, filename, content_type, size_bytes, sha256
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bytea[])
  AS file (id, filename, content_type, size_bytes, sha256)
"""


class Stored(BaseModel):
    """One file whose bytes are on the disk under its id."""

    id: uuid.UUID
    filename: str
    content_type: str | None
    size_bytes: int
    sha256: str


class Receipt(BaseModel):
    """The answer to one request: `files` in the order sent."""

    batch_id: uuid.UUID
    total_uploads: int
    total_bytes: int
    files: list[Stored]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool for as long as the service runs."""
    async with asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=2, max_size=10) as pool:
        await pool.execute(SCHEMA)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan, form_limits={"max_files": 2000})


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Answer once the pool is open."""
    return {"ready": True}


@app.post("/uploads", status_code=201)
async def upload(files: list[UploadFile]) -> Receipt:
    """Store every file of the request durably, then its rows, then answer."""
    slots = asyncio.Semaphore(FILES_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_store(file, slots)) for file in files]
    stored = [task.result() for task in tasks]
    await asyncio.to_thread(_sync_folder, FOLDER)
    receipt = Receipt(
        batch_id=uuid.uuid4(),
        total_uploads=len(stored),
        total_bytes=sum(file.size_bytes for file in stored),
        files=stored,
    )
    pool: asyncpg.Pool[asyncpg.Record] = app.state.pool
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(INSERT_BATCH, receipt.batch_id, receipt.total_uploads, receipt.total_bytes)
        await connection.execute(
            INSERT_UPLOADS,
            receipt.batch_id,
            [file.id for file in stored],
            [file.filename for file in stored],
            [file.content_type for file in stored],
            [file.size_bytes for file in stored],
            [bytes.fromhex(file.sha256) for file in stored],
        )
    return receipt


@app.get("/uploads/{upload_id}/content")
async def content(upload_id: uuid.UUID) -> FileResponse:
    """Send the bytes back, or 404."""
    path = FOLDER / upload_id.hex
    if not await asyncio.to_thread(path.exists):
        raise HTTPException(404)
    return FileResponse(path, media_type="application/octet-stream")


async def _store(file: UploadFile, slots: asyncio.Semaphore) -> Stored:
    upload_id = uuid.uuid4()
    async with slots:
        size_bytes, sha256 = await asyncio.to_thread(_copy, file.file, FOLDER / upload_id.hex)
    return Stored(
        id=upload_id,
        filename=file.filename or "",
        content_type=file.content_type,
        size_bytes=size_bytes,
        sha256=sha256,
    )


def _copy(source: BinaryIO, target: Path) -> tuple[int, str]:
    """Copy, hash and sync one file; return its size and digest. The directory entry is not synced yet."""
    digest = hashlib.sha256()
    size_bytes = 0
    with target.open("xb") as sink:
        while chunk := source.read(READ_BYTES):
            digest.update(chunk)
            sink.write(chunk)
            size_bytes += len(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return size_bytes, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

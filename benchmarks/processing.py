"""What a worker gets done: files/s by `inspect`, and thumbnails/s beside a bare Pillow loop on the same cores.

The files are taken in first, by a service that processes nothing; then a worker starts, and the clock runs from there
to the end of the batch: queue, claims, children with their start, thumbnails made durable, results committed.
"""

import asyncio
import io
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from client import WrongAnswerError
from PIL import Image, ImageOps

from app.api.multipart import MultipartBody
from app.bootstrap import Services, running
from app.db import migrate
from app.domain.batch import FINAL_BATCH, BatchStatus
from app.domain.ids import LOCAL_OWNER
from app.ingest.receive import Target
from app.settings import Settings

BOUNDARY: Final = b"--boatload-benchmark"
POLL_SECONDS: Final = 0.02
PER_REQUEST: Final = 500
THUMBNAIL_PIXELS: Final = 512
_SEED: Final = 20_261_125


@dataclass(frozen=True, slots=True)
class Rates:
    """Files a second."""

    inspected: float
    thumbnails: float
    bare_thumbnails: float

    def render(self) -> list[str]:
        """Return them as Markdown."""
        return [
            "",
            "## Processing, by one worker process",
            "",
            "| | files/s |",
            "| --- | ---: |",
            f"| `inspect`, texts of 4 KiB | {self.inspected:,.0f} |",
            f"| `inspect` and `image`, JPEGs of 2 megapixels | {self.thumbnails:.1f} |",
            f"| a bare Pillow loop in as many processes | {self.bare_thumbnails:.1f} |",
            f"| the second as a share of the third | {self.thumbnails / self.bare_thumbnails:.2f} |",
        ]


def run(folder: Path, dsn: str, *, texts: int = 5000, photos: int = 400) -> Rates:
    """Measure on the empty database of `dsn`, with the bytes in `folder`. Raises WrongAnswerError."""
    migrate.upgrade(dsn)
    chance = random.Random(_SEED)
    words = [b"%d plain words of no meaning\n" % chance.getrandbits(64) * 90 for _ in range(texts)]
    images = [_photo(chance) for _ in range(min(photos, 8))] * -(-photos // 8)
    inspected = asyncio.run(_measure(folder, dsn, words, ("inspect",)))
    bare = _bare_loop(images[:photos])
    made = asyncio.run(_measure(folder, dsn, images[:photos], ("inspect", "image")))
    return Rates(inspected, made, bare)


async def _measure(folder: Path, dsn: str, files: Sequence[bytes], processors: tuple[str, ...]) -> float:
    settings = Settings(data_dir=folder, worker=False, processors=processors, thumbnail_pixels=THUMBNAIL_PIXELS)
    async with running(settings, dsn) as services:
        batch_id = await _take_in(services, files)
    began = time.monotonic()
    async with running(settings.model_copy(update={"worker": True}), dsn) as services:
        while (batch := await services.batches.get(LOCAL_OWNER, batch_id)).status not in FINAL_BATCH:  # noqa: ASYNC110 - as a client does
            await asyncio.sleep(POLL_SECONDS)  # the worker runs in this process, as it does in `serve`
        seconds = time.monotonic() - began
    if batch.status is not BatchStatus.COMPLETED or batch.successful_uploads != len(files):
        raise WrongAnswerError(f"{batch.successful_uploads} of {len(files)} files were processed")
    return len(files) / seconds


async def _take_in(services: Services, files: Sequence[bytes]) -> UUID:
    batch = await services.batches.open(
        LOCAL_OWNER, label=None, expected_uploads=len(files), metadata={}, expires_in=None
    )

    async def find_batch(_field: str | None) -> UUID:
        return batch.id

    for start in range(0, len(files), PER_REQUEST):
        receipt = await services.receiver.receive(
            _body(files[start : start + PER_REQUEST]),
            lambda reception: MultipartBody(BOUNDARY, reception, max_parts=PER_REQUEST),
            Target(LOCAL_OWNER, find_batch),
        )
        if receipt.error:
            raise WrongAnswerError(receipt.error.detail)
    return batch.id


async def _body(files: Sequence[bytes]) -> AsyncIterator[bytes]:
    for number, data in enumerate(files):
        head = b'Content-Disposition: form-data; name="files"; filename="%d"\r\n\r\n' % number
        yield b"--" + BOUNDARY + b"\r\n" + head + data + b"\r\n"
    yield b"--" + BOUNDARY + b"--\r\n"


def _photo(chance: random.Random) -> bytes:
    """Return a JPEG of 1600 x 1200 with much in it, which lies on its side."""
    small = Image.frombytes("RGB", (160, 120), chance.randbytes(160 * 120 * 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    written = io.BytesIO()
    small.resize((1600, 1200), Image.Resampling.BICUBIC).save(written, "JPEG", quality=85, exif=exif)
    return written.getvalue()


def _bare_loop(images: Sequence[bytes]) -> float:
    """Return how many thumbnails a second a loop makes that does nothing else, in a process for each core."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_thumbnail, images[:4]))
        began = time.monotonic()
        list(pool.map(_thumbnail, images, chunksize=4))
        return len(images) / (time.monotonic() - began)


def _thumbnail(data: bytes) -> int:
    """Make one as we make it, with the same size and quality, and throw it away."""
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        written = io.BytesIO()
        ImageOps.exif_transpose(image).save(written, "WEBP", quality=80)
    return len(written.getvalue())

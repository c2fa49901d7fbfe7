"""A thousand real files in one request, streamed: every digest right, every byte back."""

import asyncio
import hashlib
import random
from pathlib import Path

import httpx
import pytest

from tests.support.files import KINDS, SEED, SIZES, thousand
from tests.support.server import Boatload
from tests.support.wire import (
    FORM,
    File,
    Json,
    all_uploads,
    connection,
    counts,
    finished,
    length,
    read_answer,
    request_head,
    stream,
    verdicts,
)

_READ_BYTES = 1 << 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    return thousand(tmp_path_factory.mktemp("thousand"))


def test_the_files_are_a_thousand_of_mixed_kinds_and_sizes(files: list[File]) -> None:
    sizes = [file.size for file in files]
    assert len(files) == 1000
    assert min(sizes) == 0
    assert max(sizes) == 20 * 1024 * 1024
    assert sum(sizes) <= 150e6
    assert sum(size > 1 << 20 for size in sizes) >= 3


def test_a_thousand_files_in_one_request_are_all_there(client: httpx.Client, files: list[File]) -> None:
    headers = FORM | {"content-length": str(length(files))}
    answer = client.post("/v1/uploads", content=stream(files), headers=headers, timeout=120)
    assert answer.status_code == 201, answer.text[:2000]
    check(client, files, answer.json())


async def test_the_same_in_a_chunked_body_over_a_bare_socket(
    server: Boatload, client: httpx.Client, files: list[File]
) -> None:
    sizes = random.Random(SEED)
    async with connection(server.port) as (reader, writer):
        writer.write(
            request_head("POST", "/v1/uploads", Content_Type=FORM["content-type"], Transfer_Encoding="chunked")
        )
        for piece in stream(files):
            for chunk in cut(piece, sizes):
                writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        answer = await asyncio.wait_for(read_answer(reader), 60)
    assert answer.status_code == 201, answer.text[:2000]
    await asyncio.to_thread(check, client, files, answer.json())


def cut(piece: bytes, sizes: random.Random) -> list[bytes]:
    """The piece in chunks as no sane client would cut them."""
    chunks = []
    while piece:
        size = sizes.choice((1, 7, 100, 5000, 1 << 17, 1 << 17, 1 << 17))
        chunks.append(piece[:size])
        piece = piece[size:]
    return chunks


def check(client: httpx.Client, files: list[File], body: Json) -> None:
    """All is as it was sent: the answer, the batch, its uploads, and the bytes of those that are likely to go wrong."""
    digests = [file.sha256 for file in files]
    results = body["results"]
    assert [(result["index"], result["filename"]) for result in results] == [
        (index, file.filename) for index, file in enumerate(files)
    ]
    assert verdicts(results) == ["taken"] * len(files)
    assert [result["upload"]["sha256"] for result in results] == digests
    assert [result["upload"]["size_bytes"] for result in results] == [file.size for file in files]

    batch = finished(client, body["url"], seconds=60)
    assert batch["status"] == "completed"
    assert counts(batch) == (1000, 1000, 1000, 0)
    assert batch["total_bytes"] == batch["received_bytes"] == sum(file.size for file in files)

    listed = {upload["id"]: upload for upload in all_uploads(client, body["url"], limit=300)}
    assert [listed[result["upload"]["id"]]["sha256"] for result in results] == digests
    assert {upload["status"] for upload in listed.values()} == {"completed"}

    special = {f"sized-{number}-{size}.bin" for number, size in enumerate(SIZES)} | KINDS.keys()
    by_chance = random.Random(SEED).sample(range(1000), 100)
    for index, (file, result) in enumerate(zip(files, results, strict=True)):
        assert isinstance(file.data, Path)
        name = file.data.name
        if name in KINDS:
            assert listed[result["upload"]["id"]]["detected_type"] in KINDS[name], name
        if name in special or index in by_chance:
            assert downloaded(client, result["upload"]["content_url"]) == (file.size, digests[index]), name


def downloaded(client: httpx.Client, url: str) -> tuple[int, str]:
    """Size and digest of the content."""
    digest = hashlib.sha256()
    size = 0
    with client.stream("GET", url) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes(_READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()

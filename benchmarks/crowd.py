"""Five hundred clients at once: what those who stall or trickle cost the others, and what memory all of them take."""

import asyncio
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

from client import HOST, Body, WrongAnswerError, multipart, post
from contenders import Boatload
from memory import MemoryMeter, resident_bytes
from servers import Server, running

CLIENTS: Final = 500
HEALTHY: Final = 4
BODY_BYTES: Final = 1_000_000
PAUSE_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 60
BOUNDARY: Final = "boatload-benchmark"
HERE: Final = Path(__file__).parent
SERVICE: Final = Boatload()


def table(folder: Path, dsn: str, *, rounds: int, seconds: float) -> Iterator[str]:
    """Yield the tables, measured on a server of its own. Raises WrongAnswerError."""
    with running(SERVICE, folder, dsn) as server:
        yield from asyncio.run(_measure(server, rounds, seconds))


async def _measure(server: Server, rounds: int, seconds: float) -> list[str]:
    body = multipart([("healthy", b"x" * 4096)], field="files", boundary=BOUNDARY)
    batch = post(server.seat.port, "/v1/batches", Body("application/json", (b"{}",), 2), timeout_seconds=10)
    url = json.loads(batch.body)["url"]
    requests = {
        "a poll": ("200", _head("GET", url) + b"\r\n"),
        "a file of 4 KiB": ("201", _upload(body)),
    }
    rows = []
    for title, (status, request) in requests.items():
        found: dict[str, list[float]] = {"quiet": [], "stalled": [], "trickling": []}
        for number in range(rounds + 1):
            for crowd, measured in found.items():
                async with AsyncExitStack() as stack:
                    if crowd != "quiet":
                        await _gather(server, stack, url, trickles=crowd == "trickling")
                    p99 = await asyncio.to_thread(_healthy, server, seconds, status, request)
                if number:  # the first is the warm-up
                    measured.append(p99)
        quiet, *others = (statistics.median(measured) for measured in found.values())
        rows.append(
            f"| {title} | {quiet * 1000:.1f} ms | "
            + " | ".join(f"{other * 1000:.1f} ms ({other / quiet:.1f} x)" for other in others)
            + " |"
        )
    grown = await _memory(server)
    return [
        "",
        f"## {CLIENTS} clients at once",
        "",
        f"| p99 of {HEALTHY} clients that ask for | quiet | {CLIENTS} bodies stall | {CLIENTS} bodies trickle |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
        f"{CLIENTS} clients that send 1 MB each at the same moment grow the server by {grown / 1e6:.0f} MB.",
    ]


def _healthy(server: Server, seconds: float, status: str, request: bytes) -> float:
    """Return the p99 of the latency in seconds."""
    command = [sys.executable, str(HERE / "load.py"), str(server.seat.port), str(HEALTHY), str(seconds), status]
    ran = subprocess.run(command, input=request, capture_output=True, timeout=120, check=False)
    if ran.returncode:
        raise WrongAnswerError(f"load.py: {ran.stderr.decode()[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    return float(found["p99"])


async def _gather(server: Server, stack: AsyncExitStack, url: str, *, trickles: bool) -> None:
    """Have clients stop in the middle of a body, or go on a byte at a time, until the stack is left.

    One half sends multipart, the other PUT; each is a little or a lot into its file.
    """
    whole = _upload(multipart([("stalled", bytes(BODY_BYTES))], field="files", boundary=BOUNDARY))

    async def hang(number: int, writer: asyncio.StreamWriter) -> None:
        put = _head("PUT", f"{url}/files/{number}") + b"Content-Length: %d\r\n\r\n" % BODY_BYTES + bytes(BODY_BYTES)
        writer.write((whole, put)[number % 2][: 200_000 if number % 4 > 1 else 50_000])
        while trickles:
            await asyncio.sleep(PAUSE_SECONDS)
            writer.write(b"x")

    for number in range(CLIENTS):
        _, writer = await asyncio.open_connection(HOST, server.seat.port)
        stack.callback(writer.close)
        stack.callback(asyncio.create_task(hang(number, writer)).cancel)
    await asyncio.sleep(1)


async def _memory(server: Server) -> int:
    """Return by how many bytes the server grows while all send at once what is new to it."""
    chance = random.Random(1)
    bodies = [
        _upload(multipart([(str(n), chance.randbytes(BODY_BYTES))], field="files", boundary=BOUNDARY))
        for n in range(CLIENTS)
    ]
    start = asyncio.Event()

    async def send(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, server.seat.port)
        try:
            await start.wait()
            writer.write(request)
            async with asyncio.timeout(ANSWER_SECONDS):
                return (await reader.readline()).split()[1]
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    sending = [asyncio.create_task(send(request)) for request in bodies]
    await asyncio.sleep(1)
    before = resident_bytes(server.pid)
    with MemoryMeter(server.pid) as meter:
        start.set()
        statuses = set(await asyncio.gather(*sending))
    if statuses != {b"201"}:
        raise WrongAnswerError(f"{CLIENTS} clients at once were answered {statuses}")
    return meter.peak_bytes - before


def _upload(body: Body) -> bytes:
    fields = f"Content-Type: {body.content_type}\r\nContent-Length: {body.size_bytes}\r\n\r\n"
    return _head("POST", SERVICE.upload_path) + fields.encode() + b"".join(body.pieces)


def _head(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n".encode()

"""Followers of one batch, in a process of their own: how long after each commit they have heard of it.

`SERVER_PID=… python benchmarks/follow.py PORT DSN PATH FOLLOWERS SECONDS` opens that many event streams of the batch at
PATH, sends it a file every 50 ms, and prints one JSON object. A follower has heard of a version with the first snapshot
that has it or a later one. When a version was committed is what PostgreSQL says: its notification goes out with the
commit, and is heard here, on the same clock.
"""

import asyncio
import json
import os
import re
import sys
import time
from array import array
from collections.abc import Callable
from typing import Final, cast

import asyncpg
import psutil
import uvloop

HOST: Final = "127.0.0.1"
EVERY_SECONDS: Final = 0.05
OPEN_SECONDS: Final = 60.0
LATE_SECONDS: Final = 3.0
SNAPSHOT: Final = re.compile(rb"\nid: ([0-9]+)\n")
FILE: Final = (
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nsome text, a few bytes of it\r\n--b--\r\n'
)


class Follower(asyncio.Protocol):
    """One event stream. `heard` are the versions of its snapshots, and when each came."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.versions = array("q")
        self.moments = array("d")
        self.bytes = 0
        self.is_cut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the newest snapshot in it; an id that is torn in two is put together again."""
        self.bytes += len(data)
        data = self._tail + data
        found = SNAPSHOT.findall(data)
        if found:
            self.versions.append(int(found[-1]))
            self.moments.append(time.perf_counter())
        self._tail = data[-40:] if not data.endswith(b"\n\r\n") else b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Remember it: nobody should end the stream of an open batch."""
        self.is_cut = True

    def close(self) -> None:
        """Go away."""
        self._transport.close()


async def follow(port: int, dsn: str, path: str, count: int, seconds: float) -> int:
    """Follow, measure, print; return the exit status."""
    loop = asyncio.get_running_loop()
    committed: dict[int, float] = {}

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        batch_id, version = str(payload).split()
        if path.endswith(batch_id):
            committed[int(version)] = time.perf_counter()

    listener = await asyncpg.connect(dsn)
    await listener.add_listener("boatload_batches", hear)
    request = f"GET {path}/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    followers = []
    for _ in range(count):
        _, follower = await loop.create_connection(lambda: Follower(request), HOST, port)
        followers.append(follower)
    await _until(lambda: all(follower.versions for follower in followers), OPEN_SECONDS)

    service = psutil.Process(int(os.environ["SERVER_PID"]))
    sent_before, steps_before = sum(one.bytes for one in followers), sum(len(one.versions) for one in followers)
    started, cpu, service_cpu = time.perf_counter(), time.process_time(), sum(service.cpu_times()[:2])
    await _send_files(port, path, seconds)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    service_cpu = sum(service.cpu_times()[:2]) - service_cpu
    sent, steps = sum(one.bytes for one in followers), sum(len(one.versions) for one in followers)
    last = max(committed)
    await _until(lambda: all(follower.versions[-1] >= last for follower in followers), LATE_SECONDS)
    lags = sorted(lag for follower in followers for lag in _lags(follower, committed, last))
    found = {name: lags[int(len(lags) * share)] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    found |= {"worst": lags[-1], "versions": len(committed), "steps": steps - steps_before, "seconds": took}
    found |= {"bytes": sent - sent_before, "cpu_seconds": cpu, "service_cpu_seconds": service_cpu}
    await listener.close()
    cut = sum(follower.is_cut for follower in followers)
    for follower in followers:
        follower.close()
    print(json.dumps(found))
    if cut:
        print(f"{cut} streams ended", file=sys.stderr)
    return 1 if cut else 0


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Return once the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # it depends on a thousand protocols
            await asyncio.sleep(0.05)


async def _send_files(port: int, path: str, seconds: float) -> None:
    """Send the batch one small file after the other, at a steady pace."""
    head = f"POST {path}/uploads HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    request = f"{head}Content-Length: {len(FILE)}\r\n\r\n".encode() + FILE
    reader, writer = await asyncio.open_connection(HOST, port)
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 201"):
            raise ConnectionError(f"a file was not taken: {answer!r}")
        length = re.search(rb"content-length: ([0-9]+)", answer)
        await reader.readexactly(int(length[1]) if length else 0)
        await asyncio.sleep(max(0.0, EVERY_SECONDS - (time.perf_counter() - begun)))
    writer.close()


def _lags(follower: Follower, committed: dict[int, float], last: int) -> list[float]:
    """Return how long after its commit each version reached a follower."""
    lags = []
    place = 0
    for version in sorted(version for version in committed if version <= last):
        while follower.versions[place] < version:
            place += 1
        lags.append(follower.moments[place] - committed[version])
    return lags


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(follow(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))))

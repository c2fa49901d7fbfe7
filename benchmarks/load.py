"""A load generator in a process of its own: raw protocols that send a prepared request again when its answer is whole.

`python benchmarks/load.py PORT CONNECTIONS SECONDS STATUS` reads the request from stdin, and prints one JSON object:
answers, seconds, its own CPU seconds, and percentiles of the latency in seconds. Exits 1 on any other status. It parses
nothing but the status and the length, so one core of it asks far more than one core of Python can answer; its CPU share
says whether that held.
"""

import asyncio
import json
import sys
import time
from typing import Final, cast

import uvloop

HOST: Final = "127.0.0.1"
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"\r\ncontent-length: "


class Poller(asyncio.Protocol):
    """One keep-alive connection. `latencies` is shared by all."""

    def __init__(self, request: bytes, status: bytes, latencies: list[float], failed: "asyncio.Future[str]") -> None:
        self._request = request
        self._status_line = b"HTTP/1.1 " + status
        self._latencies = latencies
        self._failed = failed
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Ask again when the answer is whole."""
        self._received = data = self._received + data
        head_end = data.find(HEAD_END)
        if head_end < 0:
            return
        if not data.startswith(self._status_line):
            self._fail(f"{data[:500]!r}")
            return
        at = data.find(LENGTH, 0, head_end + 2)
        length = int(data[at + len(LENGTH) : data.index(b"\r\n", at + 2)]) if at >= 0 else 0
        if len(data) >= head_end + len(HEAD_END) + length:
            self._latencies.append(time.perf_counter() - self._sent_at)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail: nobody here closes a connection before the end."""
        self._fail(f"connection lost: {exc!r}")

    def _ask(self) -> None:
        self._received = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, why: str) -> None:
        if not self._failed.done():
            self._failed.set_result(why)


async def load(port: int, connections: int, seconds: float, status: str, request: bytes) -> int:
    """Ask for `seconds`, print what came of it, return the exit status."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    failed: asyncio.Future[str] = loop.create_future()
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(connections):
        await loop.create_connection(lambda: Poller(request, status.encode(), latencies, failed), HOST, port)
    await asyncio.wait([failed], timeout=seconds)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    if failed.done() or not latencies:
        print(failed.result() if failed.done() else "nothing was answered", file=sys.stderr)
        return 1
    latencies.sort()
    percentiles = {name: latencies[int(len(latencies) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    print(json.dumps({"answers": len(latencies), "seconds": took, "cpu_seconds": cpu} | percentiles))
    return 0


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(
            runner.run(
                load(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.stdin.buffer.read())
            )
        )

"""What it costs to declare many files at once, and to declare them again as a client does that goes on."""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from client import Body, WrongAnswerError, get_json, post
from contenders import Boatload
from doors import open_batch
from servers import Server, running

NAME: Final = "manifest"
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Call:
    """One manifest, answered."""

    seconds: float
    cpu_seconds: float


def tables(folder: Path, dsn: str, *, entries: int, rounds: int) -> Iterator[str]:
    """Yield the table, measured on a server of its own; `dsn` names an empty database. Raises WrongAnswerError."""
    first: list[_Call] = []
    again: list[_Call] = []
    with running(Boatload(), folder / NAME, dsn) as server:
        for number in range(rounds + 1):
            body = _manifest(entries)
            batch = open_batch(server.seat.port)
            calls = [_declare(server, batch, body, entries) for _ in range(2)]
            print(f"{NAME} {number}/{rounds}: {calls[0].seconds:.3f} s", file=sys.stderr, flush=True)
            if number:  # the first is the warm-up
                first.append(calls[0])
                again.append(calls[1])
            total = get_json(server.seat.port, batch, timeout_seconds=10)["receiving_uploads"]
            if total != entries:
                raise WrongAnswerError(f"{total} uploads were declared instead of {entries}")
    yield ""
    yield f"## a manifest of {entries:,} files in one request"
    yield ""
    yield f"| | median | least to most of {rounds} | files/s | CPU of the server |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for title, found in (("new files", first), ("the same again, to go on", again)):
        seconds = [one.seconds for one in found]
        median = statistics.median(seconds)
        cpu = statistics.median(one.cpu_seconds for one in found)
        cells = (title, f"{median:.3f} s", f"{min(seconds):.3f} to {max(seconds):.3f} s", f"{entries / median:,.0f}")
        yield f"| {' | '.join(cells)} | {cpu:.2f} s |"


def _manifest(entries: int) -> Body:
    files = [
        {"ref": f"folder/{number:06}.jpg", "filename": f"{number:06}.jpg", "size_bytes": 4096 + number}
        | {"sha256": os.urandom(32).hex(), "content_type": "image/jpeg"}
        for number in range(entries)
    ]
    data = json.dumps({"entries": files}).encode()
    return Body("application/json", (data,), len(data))


def _declare(server: Server, batch: str, body: Body, entries: int) -> _Call:
    before = _cpu_seconds(server)
    answer = post(server.seat.port, f"{batch}/manifest", body, timeout_seconds=_SECONDS)
    time.sleep(0.05)  # what it does behind the answer counts as well
    cpu = _cpu_seconds(server) - before
    told: list[dict[str, Any]] = json.loads(answer.body).get("entries", [])
    if len(told) != entries or {one["action"] for one in told} != {"upload"}:
        raise WrongAnswerError(f"{answer.status}: {answer.body[:500]!r}")
    return _Call(answer.seconds, cpu)


def _cpu_seconds(server: Server) -> float:
    times = psutil.Process(server.pid).cpu_times()
    used: float = times.user + times.system
    return used

"""Reading progress: polls of a batch beside a plain route, and a thousand followers of one batch that moves."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from client import HOST, Body, WrongAnswerError, get_json, post
from contenders import Boatload, Peer
from databases import create_database
from servers import Server, running

LIVE: Final = ("polling", "followers")
CONNECTIONS: Final = 50
FOLLOWERS: Final = 1000
SECONDS: Final = 5.0
FOLLOW_SECONDS: Final = 15.0
HERE: Final = Path(__file__).parent

SERVICE: Final = Boatload()
PEER: Final = Peer("plain", "FastAPI route, asyncpg pool, pydantic", "polling")


def live_tables(folder: Path, dsn: str, only: Sequence[str], *, rounds: int, quick: bool) -> Iterator[str]:
    """Yield the tables that are asked for, measured on servers of their own. Raises as a run of workloads does."""
    if not set(LIVE) & set(only):
        return
    database = create_database(dsn, "bench_live")
    with running(SERVICE, folder / "live", database) as service:
        if "polling" in only:
            with running(PEER, folder / PEER.name, database) as peer:
                yield from _polling(service, peer, rounds=rounds, seconds=1.0 if quick else SECONDS)
        if "followers" in only:
            yield from _followers(service, 100 if quick else FOLLOWERS, 3.0 if quick else FOLLOW_SECONDS)


def _polling(service: Server, peer: Server, *, rounds: int, seconds: float) -> Iterator[str]:
    """Let the same requests go to both in turn, without and with the ETag that they have."""
    path = _new_batch(service)
    etag = f'"{get_json(service.seat.port, path, timeout_seconds=10)["version"]}"'
    yield ""
    yield f"## polling one batch, {CONNECTIONS} connections"
    yield ""
    yield (
        f"| server | answer | answers/s, median | least to most of {rounds} | Boatload is N times as fast | p50 | "
        "p99 | CPU of the client |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for status, known in ((200, ""), (304, f"If-None-Match: {etag}\r\n")):
        request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{known}\r\n".encode()
        answers: list[tuple[Server, list[dict[str, Any]]]] = [(service, []), (peer, [])]
        for number in range(rounds + 1):
            for server, measured in answers:
                found = _client("load.py", server, str(CONNECTIONS), str(seconds), str(status), request=request)
                print(f"polling {status} {number}/{rounds} {server.contender.name}", file=sys.stderr, flush=True)
                if number:  # the first is the warm-up
                    measured.append(found)
        yield from _polling_rows(status, answers)


def _polling_rows(status: int, answers: Sequence[tuple[Server, list[dict[str, Any]]]]) -> Iterator[str]:
    """Yield a row for each server; the first is the one compared with the others."""
    subject: list[float] = []
    for server, found in answers:
        rates = [one["answers"] / one["seconds"] for one in found]
        is_subject = not subject
        subject = subject or rates
        pairs = [own / other for own, other in zip(subject, rates, strict=True)]
        ratio = statistics.median(subject) / statistics.median(rates)
        cells = (
            server.contender.title,
            str(status),
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            "" if is_subject else f"{ratio:.1f} x ({min(pairs):.1f} to {max(pairs):.1f})",
            *(f"{statistics.median(one[name] for one in found) * 1000:.1f} ms" for name in ("p50", "p99")),
            f"{statistics.median(one['cpu_seconds'] / one['seconds'] for one in found):.0%}",
        )
        yield f"| {' | '.join(cells)} |"


def _followers(service: Server, followers: int, seconds: float) -> Iterator[str]:
    """Let them follow a batch that takes a file every 50 ms and whose files are processed meanwhile."""
    path = _new_batch(service)
    found = _client("follow.py", service, service.seat.dsn, path, str(followers), str(seconds))
    yield ""
    yield f"## {followers:,} followers of one batch"
    yield ""
    yield "| versions/s | steps/s of each | lag p50 | p95 | p99 | worst | sent | CPU, service | CPU, client |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    cells = (
        f"{found['versions'] / found['seconds']:.0f}",
        f"{found['steps'] / found['seconds'] / followers:.1f}",
        *(f"{found[name] * 1000:.0f} ms" for name in ("p50", "p95", "p99", "worst")),
        f"{found['bytes'] / found['seconds'] / 1e6:.0f} MB/s",
        f"{found['service_cpu_seconds'] / found['seconds']:.0%}",
        f"{found['cpu_seconds'] / found['seconds']:.0%}",
    )
    yield f"| {' | '.join(cells)} |"


def _new_batch(service: Server) -> str:
    answer = post(service.seat.port, "/v1/batches", Body("application/json", (b"{}",), 2), timeout_seconds=10)
    if answer.status != 201:
        raise WrongAnswerError(f"a batch was not opened: {answer}")
    path: str = json.loads(answer.body)["url"]
    return path


def _client(script: str, server: Server, *arguments: str, request: bytes = b"") -> dict[str, Any]:
    """Run a load generator to its end; return what it printed. Raises WrongAnswerError."""
    command = [sys.executable, str(HERE / script), str(server.seat.port), *arguments]
    environment = server.seat.environment(SERVER_PID=str(server.pid))
    ran = subprocess.run(command, input=request, capture_output=True, timeout=120, check=False, env=environment)
    if ran.returncode:
        raise WrongAnswerError(f"{script}: {ran.stderr.decode()[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found

"""A process that owns an embedded PostgreSQL, for tests to treat badly: run as a module, with MODE and DATA_DIR."""

import asyncio
import json
import os
import pwd
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from app.db.embedded import EmbeddedError, EmbeddedPostgres, attach


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - how it speaks to the test


def become_nobody() -> None:
    """Give root up. The interpreter may be out of nobody's reach, so what is imported late is imported before."""
    try:
        attach(Path("/nonexistent/boatload"))
    except EmbeddedError:
        asyncio.run(asyncio.sleep(0))
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


async def application(scope: dict[str, object], receive: object, send: object) -> None:
    raise NotImplementedError


def serve() -> None:
    import uvicorn  # noqa: PLC0415 - only one mode waits for it

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say("READY")

    with suppress(KeyboardInterrupt):  # as uvicorn.run does
        Server(uvicorn.Config(application, port=0, lifespan="off")).run()


def main(mode: str, data_dir: Path) -> None:
    if mode == "nobody":
        become_nobody()
    say("STARTING")
    if mode == "forget":
        EmbeddedPostgres(data_dir).start()
        say("READY")
        return
    with EmbeddedPostgres(data_dir, os.environ.get("VERSION", "18")) as postgres:
        if mode == "uvicorn":
            serve()
            return
        say("READY", postgres.dsn)
        if mode == "nobody":
            mine = [process for process in psutil.Process().children() if process.name() == "postgres"]
            paths = (data_dir, data_dir / "postgres", data_dir / "run")
            facts = {"users": [p.username() for p in mine], "modes": [p.stat().st_mode & 0o777 for p in paths]}
            say(json.dumps(facts))
        if mode == "fork":
            first = os.fork()
            if first == 0:
                sys.exit()  # leaves the `with` block, as a child of a careless library might
            os.waitpid(first, 0)
            second = os.fork()
            if second == 0:
                time.sleep(60)
                os._exit(0)
            say("CHILD", second)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a background shell made of it
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except EmbeddedError as error:
        say("ERROR", error)
        sys.exit(1)

"""Real `boatload worker` processes, for tests to watch and to treat badly."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.support.server import ROOT, STOP_SECONDS, Boatload, environment
from tests.support.wire import Json


class Worker:
    """One worker, and what it said. It can be started again."""

    def __init__(self, log_path: Path, **settings: object) -> None:
        self.log_path: Final = log_path
        self.settings: Final = {"log_format": "json", "log_level": "debug", "processor_processes": 1, **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self._said_before = 0

    @property
    def log(self) -> list[Json]:
        """What this process has said since its last start."""
        lines = self.log_path.read_bytes()[self._said_before :].decode(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def said(self, event: str) -> list[Json]:
        return [line for line in self.log if line["event"] == event]

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        self._said_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "app", "worker"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(self.settings), stdout=log, stderr=log)

    def start(self) -> None:
        """Start it and return when it waits for jobs."""
        self.launch()
        deadline = time.monotonic() + 60
        while not self.said("queue connected"):
            assert self.process
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def helpers(self) -> list[psutil.Process]:
        """The processes that look into files for it."""
        assert self.process
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """SIGKILL: it and whoever works for it say no goodbye."""
        assert self.process
        helpers = self.helpers()
        self.process.kill()
        self.process.wait()
        for helper in helpers:
            if helper.is_running():
                helper.kill()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; return its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def end(self) -> None:
        """End it if it still runs."""
        if self.process and self.process.poll() is None:
            self.kill()


@contextmanager
def workers_of(server: Boatload, count: int = 1, **settings: object) -> Iterator[Sequence[Worker]]:
    """Workers on the database and the store of a server, ended however the test ends; the test starts them."""
    known = {name: server.settings[name] for name in ("data_dir", "database_url") if name in server.settings}
    place = server.log_path.parent
    workers = [Worker(place / f"worker-{number}.log", **known, **settings) for number in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()

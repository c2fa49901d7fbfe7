"""A real `boatload serve` in a process of its own, for tests to talk to and to treat badly."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

ROOT: Final = Path(__file__).parents[2]
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
_POLL_SECONDS: Final = 0.02

living: Final[list["Boatload"]] = []
"""Every server that a test has at this moment: what they said is shown when the test fails."""


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Ours without any BOATLOAD_ variable but those of `settings`, named without the prefix and in lower case."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BOATLOAD_")}
    return clean | {f"BOATLOAD_{name.upper()}": str(value) for name, value in settings.items()}


def boatload(*arguments: str, seconds: float = 60, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=seconds, check=False
    )


@contextmanager
def folder() -> Iterator[Path]:
    """A directory for one server, short for the sake of sockets, and open to the user that PostgreSQL runs as."""
    path = Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def serving(**settings: object) -> Iterator["Boatload"]:
    """A server that is ready. It and its PostgreSQL are ended, and its files removed, however the test ends.

    Without `database_url` it runs its embedded PostgreSQL. Its bytes lie in `server.objects` unless `storage_url` says
    otherwise.
    """
    with folder() as path:
        server = Boatload(path, **settings)
        living.append(server)
        try:
            server.start()
            yield server
        finally:
            living.remove(server)
            server.end()


class Boatload:
    """One data directory, and the process that serves it, one after the other. `url` is another after each start."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.data_dir: Final = path / "data"
        self.log_path: Final = path / "serve.log"
        self.settings: Final = {"data_dir": self.data_dir, "port": 0, "log_format": "json", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def objects(self) -> Path:
        return self.data_dir / "objects"

    @property
    def log(self) -> str:
        """All that it has said since its first start, down to the last answer before this."""
        with suppress(httpx.HTTPError):  # lines are written behind the turn of the loop that answers
            httpx.get(f"{self.url}/healthz", timeout=5, trust_env=False)
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def client(self, seconds: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=seconds, trust_env=False)

    def async_client(self, seconds: float = 60) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        return httpx.AsyncClient(base_url=self.url, timeout=seconds, trust_env=False, limits=limits)

    def start(self) -> None:
        """Start it and return when it is ready; what it says instead is in the error."""
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            code = self.process and self.process.poll()
            assert code is None, f"serve ended with {code}:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"serve is not ready:\n{self.log[-4000:]}"
            time.sleep(_POLL_SECONDS)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        self.port = 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL: nothing of it can say goodbye. Its embedded PostgreSQL goes on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end; return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def postmaster(self) -> psutil.Process | None:
        """The embedded PostgreSQL, if it runs."""
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            process = psutil.Process(int((self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
            if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def end(self) -> None:
        """End whatever still runs."""
        if self.process and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        postmaster = self.postmaster()
        if postmaster:
            postmaster.send_signal(signal.SIGQUIT)  # not SIGKILL, which would leave its shared memory behind
            postmaster.wait(STOP_SECONDS)

    def _ready(self) -> bool:
        with suppress(psutil.Error):
            for connection in psutil.Process(self.pid).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    self.port = connection.laddr.port
        with suppress(httpx.TransportError):
            return bool(self.port) and httpx.get(f"{self.url}/readyz", trust_env=False).status_code == httpx.codes.OK
        return False

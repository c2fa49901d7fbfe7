"""Directories for embedded servers, and processes that own them; whatever still runs afterwards is ended."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import PLACE, Owners, read_until, servers

ROOT = Path(__file__).parents[3]


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory that any user may pass through; whatever still runs on it afterwards is ended."""
    path = Path(tempfile.mkdtemp(prefix="bl-", dir=PLACE))
    path.chmod(0o755)
    yield path
    for process in servers(path):
        process.send_signal(signal.SIGQUIT)  # not SIGKILL, which would leave its shared memory behind
        process.wait(10)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data_dir(base: Path) -> Path:
    return base / "data"


@pytest.fixture
def owner() -> Iterator[Owners]:
    """Start processes that own a data directory; those that still live are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str, data_dir: Path, until: str = "READY", **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.embedded_owner", mode, str(data_dir)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | env
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started.append(process)
        read_until(process, until)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

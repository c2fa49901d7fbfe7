"""`boatload push` as a process of its own, and files for it."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.server import ROOT, environment
from tests.support.wire import Json

PATIENCE: Final = 30


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a run ended, and what it said as JSON lines."""

    code: int
    events: list[Json]
    stderr: str

    @property
    def done(self) -> Json:
        assert self.events, self.stderr
        assert self.events[-1]["event"] == "done"
        return self.events[-1]

    def of(self, event: str) -> list[Json]:
        return [found for found in self.events if found["event"] == event]


class Pusher:
    """Runs the command against one URL, with a state folder of its own."""

    def __init__(self, url: str, state: Path) -> None:
        self.url: Final = url
        self.state: Final = state

    def start(self, *arguments: object, **settings: object) -> "subprocess.Popen[str]":
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what runs in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, "-m", "app", "push", *map(str, arguments)]
        variables = environment({"url": self.url} | settings) | {"XDG_STATE_HOME": str(self.state)}
        return subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: object, seconds: float = 120, **settings: object) -> Pushed:
        """Run it to its end with --json."""
        return ended(self.start("--json", *arguments, **settings), seconds=seconds)

    def text(self, *arguments: object, seconds: float = 120, **settings: object) -> tuple[int, str, str]:
        """Run it to its end; return its exit code and what it said."""
        process = self.start(*arguments, **settings)
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    @property
    def states(self) -> list[Path]:
        """What it remembers."""
        return sorted(self.state.rglob("*.json"))


def ended(process: "subprocess.Popen[str]", *, seconds: float = 120) -> Pushed:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"push does not end:\n{out[-2000:]}\n{err[-2000:]}") from None
    return Pushed(process.returncode, [json.loads(line) for line in out.splitlines()], err)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", *, seconds: float = 60) -> None:
    """Return when it holds, while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def tree(folder: Path, count: int, *, seed: int = 0, most: int = 32 * 1024) -> dict[str, bytes]:
    """Write that many different files below a folder; return their contents by their names in the batch."""
    chance, contents = random.Random(seed), {}
    for number in range(count):
        name = f"{number % 17:02}/{number}.bin"
        data = chance.randbytes(chance.randint(8, most))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        contents[f"{folder.name}/{name}"] = data
    return contents

"""One child process, as its parent has it: started, given files, listened to, ended."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Final

import structlog

from app.domain.upload import Upload
from app.processing.protocol import LINE_BYTES, READY, Orders, task_line
from app.processing.registry import ProcessorsError

log: Final = structlog.get_logger("boatload.sandbox")

_START_SECONDS: Final = 30
_END_SECONDS: Final = 5
_REAP_SECONDS: Final = 60
"""What was killed is gone in a moment; on a machine that is out of breath, in some more."""
_CHATTER_BYTES: Final = 4096
"""What is logged of a child's stderr for one file; more is counted only."""


class ChildError(Exception):
    """The child is dead, or does not answer; whoever has it ends it."""


class ChildTimeoutError(ChildError):
    """It took longer than allowed."""


def check(orders: Orders) -> None:
    """Have a child load every processor there is; what is broken breaks there. Blocks. Raises ProcessorsError."""
    command = [sys.executable, "-m", "app.processing.child", orders.to_json(), "check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_SECONDS, check=False)  # noqa: S603 - our own words
    except subprocess.TimeoutExpired:
        raise ProcessorsError(f"Loading the processors took more than {_START_SECONDS} s.") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [_cause(done.returncode)]
        raise ProcessorsError(f"The processors cannot be loaded: {said[-1]}")


class Child:
    """A running child. Owned by whoever started it, who ends it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process: Final = process
        self._requests: Final = process.stdin
        self._answers: Final = process.stdout
        self._allowance = _CHATTER_BYTES
        self._chatter: Final = asyncio.create_task(self._listen(process.stderr))

    @classmethod
    async def start(cls, orders: Orders) -> "Child":
        """Start one, and return it when it may be given files. Raises ChildError."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app.processing.child", orders.to_json(), str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise ChildError(f"it cannot be started: {error}") from error
        child = cls(process)
        try:
            await child._greet()
        except (ChildError, asyncio.CancelledError):
            await child.end()
            raise
        log.debug("child started", pid=process.pid)
        return child

    @property
    def is_dead(self) -> bool:
        """Whether it has ended, even if the event loop has not heard of it yet."""
        if self._process.returncode is None:
            with suppress(ChildProcessError):
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                return os.waitid(os.P_PID, self._process.pid, options) is not None
        return True

    async def ended(self) -> None:
        """Return when it has ended."""
        await self._process.wait()

    def ask(self, upload: Upload, processors: "tuple[str, ...] | None") -> None:
        """Send a file to be looked into. The answers come in the order of the questions."""
        self._requests.write(task_line(upload, processors))

    async def answer(self, seconds: float) -> bytes:
        """Return its next line. Raises ChildTimeoutError, or ChildError where it died or said what is no line."""
        try:
            async with asyncio.timeout(seconds):
                line = await self._answers.readline()
        except TimeoutError:
            raise ChildTimeoutError from None
        except (OSError, ValueError) as error:
            raise ChildError(str(error)) from error
        if not line.endswith(b"\n"):
            await self._reaped(_END_SECONDS)
            code = self._process.returncode
            if code == -signal.SIGXCPU:
                raise ChildTimeoutError
            raise ChildError(_cause(code))
        self._allowance = _CHATTER_BYTES
        return line

    def kill(self) -> None:
        """Kill it, with all processes that it may have started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, and return when it is gone. Never raises."""
        self.kill()
        self._requests.close()
        await self._reaped(_REAP_SECONDS)
        await asyncio.wait([self._chatter], timeout=_END_SECONDS if self.is_dead else 0)
        self._chatter.cancel()
        await asyncio.wait([self._chatter])

    async def _reaped(self, seconds: float) -> None:
        """Return when its exit code is known, or then. Not by `wait_for`, which may swallow a cancellation."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()

    async def _greet(self) -> None:
        line = await self.answer(_START_SECONDS)
        if line != READY:
            raise ChildError(f"it said {line[:100]!r} at its start")

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """Bring what it writes to stderr into our log: a bounded piece for each file."""
        while text := await stderr.read(_CHATTER_BYTES):
            if self._allowance > 0:
                piece = text[: self._allowance].decode(errors="replace").rstrip()
                log.warning("a child said", pid=self._process.pid, text=piece)
                if len(text) >= self._allowance:
                    log.warning("a child says more, which is not logged", pid=self._process.pid)
            self._allowance -= len(text)


def _cause(code: int | None) -> str:
    if code is None:
        return "it closed its channel and goes on"
    if code < 0:
        return f"it was killed by signal {-code}"
    return f"it ended with exit code {code}"

"""A child process for the work on files: it may crash or hang, and it never keeps the event loop from a request."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from app.domain.errors import ProcessorCrashedError
from app.domain.upload import Refusal, Upload
from app.processing.outcome import Found, Outcome

log: Final = structlog.get_logger("boatload.sandbox")

_ANSWER_SECONDS: Final = 5
"""How long one job may take; well under a lease."""
_LINE_BYTES: Final = 1 << 20


class SandboxError(Exception):
    """The child crashed or did not answer in time; it is gone, and the next call starts another."""


class Sandbox:
    """One child, started with the first call. Whoever made it closes it. One call at a time; others wait their turn."""

    def __init__(self, folder: Path, *, log_level: str, log_format: str) -> None:
        self._command: Final = (
            *(sys.executable, "-m", "app.processing.child"),
            *(str(folder), log_level, log_format),
        )
        self._child: asyncio.subprocess.Process | None = None
        self._turn: Final = asyncio.Lock()

    async def process(self, uploads: Sequence[Upload]) -> AsyncIterator[Outcome]:
        """Yield the outcome of each; see Workshop."""
        for upload, outcome in zip(uploads, await self._detect(uploads), strict=True):
            if outcome is None:
                yield Outcome(upload, blameless=True)
            elif isinstance(outcome, ProcessorCrashedError):
                yield Outcome(upload, error=Refusal.of(outcome))
            else:
                yield Outcome(upload, Found(detected_type=outcome))

    async def _detect(
        self, uploads: Sequence[Upload], *, again: bool = True
    ) -> list[str | ProcessorCrashedError | None]:
        """Return the type of each; where the child dies of one of several, halve them until it is found.

        Nobody is blamed for one death, which may have come from outside: who was alone when it happened `again`.
        """
        if not uploads:
            return []
        try:
            return list(await self.detect_types(uploads))
        except SandboxError as error:
            log.warning("sandbox lost", uploads=len(uploads), reason=str(error))
        if len(uploads) == 1:
            if again:
                return await self._detect(uploads, again=False)
            return [ProcessorCrashedError("The process that looked into the file crashed or hung, twice.")]
        half = len(uploads) // 2
        return [*await self._detect(uploads[:half], again=False), *await self._detect(uploads[half:], again=False)]

    async def detect_types(self, uploads: Sequence[Upload]) -> list[str | None]:
        """Return the type of each upload by its content, None where its bytes are out of reach.

        Raises SandboxError.
        """
        request = json.dumps([(str(one.object_id), one.object_offset, one.received_bytes) for one in uploads])
        async with self._turn:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    child = await self._started()
                    assert child.stdin is not None
                    assert child.stdout is not None
                    child.stdin.write(request.encode() + b"\n")
                    await child.stdin.drain()
                    line = await child.stdout.readline()
                    types: list[str | None] = json.loads(line)
            except (TimeoutError, OSError, ValueError) as error:
                await self._end(signal.SIGKILL)
                raise SandboxError(f"{type(error).__name__}: {error}") from error
            except asyncio.CancelledError:
                await self._end(signal.SIGKILL)
                raise
        return types

    async def close(self) -> None:
        """End the child."""
        async with self._turn:
            await self._end(signal.SIGTERM)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
            log.debug("sandbox started", pid=self._child.pid)
        return self._child

    async def _end(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        if child and child.returncode is None:
            with suppress(ProcessLookupError):
                child.send_signal(number)
        if child:
            await child.communicate()

"""One connection that listens on a channel for as long as a process runs, and says when it may have missed a thing."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog

log: Final = structlog.get_logger("boatload.database")

CONNECT_SECONDS: Final = 4.0
PAUSE_SECONDS: Final = 0.5
"""Between two tries to connect."""
PROBE_SECONDS: Final = 5.0
"""How often a silent connection is asked whether it still is one, and how long it may take to say so."""
_CLOSE_SECONDS: Final = 1.0


class Listener:
    """Hears the notifications of `channel`, and connects again for ever when the connection is lost.

    `hear` is called with each payload, in the order of the commits. `missed` is called whenever the connection stands
    anew, the first time included: whatever was committed before that may not have been heard, whatever is committed
    after it will be. Both are called on the event loop, and must not raise or block.
    """

    def __init__(
        self,
        dsn: str,
        channel: str,
        *,
        hear: Callable[[str], None],
        missed: Callable[[], None],
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._dsn: Final = dsn
        self._channel: Final = channel
        self._hear: Final = hear
        self._missed: Final = missed
        self._probe_seconds: Final = probe_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._listen(stopped)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    log.warning("listener lost, will connect again", error=f"{type(error).__name__}: {error}")
                    await asyncio.wait([stopped], timeout=PAUSE_SECONDS)
        finally:
            stopped.cancel()

    async def _listen(self, stopped: "asyncio.Task[bool]") -> None:
        connection = await asyncpg.connect(
            self._dsn, timeout=CONNECT_SECONDS, server_settings={"application_name": "boatload-listener"}
        )
        try:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def end(_connection: object) -> None:
                if not ended.done():
                    ended.set_result(None)

            connection.add_termination_listener(end)
            await connection.add_listener(self._channel, self._take)
            self._missed()
            ends: set[asyncio.Future[Any]] = {stopped, ended}
            while not stopped.done():
                await asyncio.wait(ends, timeout=self._probe_seconds, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    raise ConnectionResetError("the server ended the connection")
                if not stopped.done():
                    # A peer that vanished without a word ends no connection: only asking finds out.
                    await connection.fetchval("SELECT 1", timeout=self._probe_seconds)
        finally:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=_CLOSE_SECONDS)

    def _take(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._hear(str(payload))

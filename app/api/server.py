"""uvicorn's server, told to end what waits before it waits for what works."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn

STALLED_SECONDS: Final = 1.0
"""How long a stream whose client has stopped reading may go on after the stop."""


class Server(uvicorn.Server):
    """Calls `before_stop` when it is to stop: open streams and long polls end then.

    The lifespan's end would be too late, because it comes after all requests have ended.
    """

    def __init__(self, config: uvicorn.Config, before_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._before_stop: Final = before_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, end what waits, and give what works its time."""
        self._before_stop()
        cutting = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._cut_stalled)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut_stalled(self) -> None:
        """Cut the streams that are still open: only a client that does not read can keep one."""
        for connection in list(self.server_state.connections):
            cycle: Any = getattr(connection, "cycle", None)
            if getattr(cycle, "is_held", False):
                connection.transport.abort()

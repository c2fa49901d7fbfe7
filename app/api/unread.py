"""How long an answer may wait for a client that does not read it."""

import asyncio
import fcntl
import struct
import termios
from contextlib import suppress
from typing import Any, Final


class Unread:
    """Watches what was written to a transport and has not arrived, and breaks off where too little of it goes.

    In `seconds` at least `seconds` * `bytes_per_second` of it must, or all. Nothing may be written between `begin` and
    `stop` but what ends in a `begin` itself.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        seconds: float,
        bytes_per_second: float,
    ) -> None:
        self._transport: Final = transport
        self._loop: Final = loop
        self._seconds: Final = seconds
        self._least: Final = seconds * bytes_per_second
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch from now on, if there is something that we still hold."""
        self.stop()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._seconds, self._look, self._left())

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        if before - self._left() < self._least:
            self._transport.abort()
        else:
            self.begin()

    def _left(self) -> int:
        """Return how much the client has not acknowledged: the system takes from us in steps of a megabyte."""
        queued = b"\0" * 4
        socket: Any = self._transport.get_extra_info("socket")
        with suppress(OSError):  # it does not tell
            queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, queued)
        return self._transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])

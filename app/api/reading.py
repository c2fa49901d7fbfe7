"""How much is read from a socket at a time: little from each of many, so that they hold little together."""

import asyncio
from collections.abc import Sized
from typing import Final

READ_BYTES: Final = 256 * 1024
"""What is read at one go from one of few connections."""
LEAST_BYTES: Final = 16 * 1024
ALL_BYTES: Final = 16 << 20
"""What one go at every connection is to come to."""


class Inbox:
    """The memory that everything is read into, one socket after the other; each time it is parsed before the next."""

    def __init__(self) -> None:
        self._whole: Final = memoryview(bytearray(READ_BYTES))

    def room(self, connections: int) -> memoryview:
        """Return what one of so many connections may fill."""
        return self._whole[: min(READ_BYTES, max(LEAST_BYTES, ALL_BYTES // connections))]


class Reading(asyncio.BufferedProtocol):
    """Stands before `protocol`, which takes bytes as they come, and has them read into the inbox.

    What `protocol.data_received` is given is a view that holds until it returns.
    """

    def __init__(self, protocol: asyncio.Protocol, inbox: Inbox, connections: Sized) -> None:
        self._inbox: Final = inbox
        self._connections: Final = connections
        self._received: Final = protocol.data_received
        self._view = memoryview(b"")
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]  # the rest is its own
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]  # as above
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]  # as above
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]  # as above

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to read to."""
        self._view = view = self._inbox.room(len(self._connections) or 1)
        return view

    def buffer_updated(self, nbytes: int) -> None:
        """Have parsed what was read."""
        self._received(self._view[:nbytes])  # type: ignore[arg-type]  # a view is as good as bytes to a parser

"""A transport whose `close` gives a client that is still sending the time to read its answer.

To close a socket with bytes unread resets the connection, and the answer may be lost with it (RFC 9112 §9.6).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from app.api.unread import Unread

LINGER_SECONDS: Final = 5.0
"""How long what a client still sends is read and dropped."""
LINGER_BYTES: Final = 16 << 20
"""How much of it."""
_STATUS: Final = b"HTTP/1."
_HEAD_END: Final = b"\r\n\r\n"


class Lingering:
    """Stands for `transport`, which it closes in the end. `goes_on` says whether the client may be sending still.

    A transport that is closed waits until all that was written has gone; `unread` ends that wait.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        goes_on: Callable[[], bool],
        unread: Unread,
    ) -> None:
        self._transport: Final = transport
        self._loop: Final = loop
        self._goes_on: Final = goes_on
        self._unread: Final = unread
        self._dropped = 0
        self._ending: asyncio.TimerHandle | None = None
        self._head = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a transport has
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Say whether nothing more is to be written."""
        return self._ending is not None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write. The head of an answer waits for what follows at once: two writes are two packets, and two wake-ups."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines([head, data])
        elif data.startswith(_STATUS) and data.endswith(_HEAD_END):
            self._head = data
            self._loop.call_soon(self._write_head)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once what was written is sent: at once, or when the client has read it. A second call waits no more."""
        self._write_head()
        if self._ending is not None or self._transport.is_closing() or not self._goes_on():
            self.end()
            return
        self._transport.write_eof()
        self._transport.resume_reading()
        self._ending = self._loop.call_later(LINGER_SECONDS, self.end)

    def _write_head(self) -> None:
        if self._head and not self._transport.is_closing():  # uvloop's raises once the client is gone
            self.write(b"")

    def drop(self, size: int) -> None:
        """Take note of bytes that nobody wants."""
        self._dropped += size
        if self._dropped > LINGER_BYTES:
            self.end()

    def end(self) -> None:
        """Close, and wait for nothing that the client sends."""
        self._write_head()
        if self._ending is not None:
            self._ending.cancel()
        self._transport.close()
        self._unread.begin()

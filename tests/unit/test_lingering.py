"""An answer to a client that is gone is dropped, on either event loop that a server may run on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from app.api.lingering import Lingering
from app.api.unread import Unread


class Late(asyncio.Protocol):
    """Begins an answer in the turn in which the connection breaks."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - whatever the loop has
        loop = asyncio.get_running_loop()
        unread = Unread(transport, loop, seconds=1, bytes_per_second=1)
        self._transport = transport
        self._lingering = Lingering(transport, loop, lambda: False, unread)

    def data_received(self, _data: bytes) -> None:
        self._transport.abort()
        self._lingering.write(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_begun_as_the_connection_breaks_is_no_fault(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    faults: list[dict[str, Any]] = []

    async def answered() -> bytes:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, fault: faults.append(fault))
        server = await loop.create_server(Late, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"?")
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(answered()) == b""
    assert faults == []

"""Bytes onto a bare socket, and all that comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from tests.support.wire import Answer, connection, read_answer

SECONDS: Final = 30
"""Far longer than any answer takes; what is not closed by then is left open."""


async def talk(port: int, *pieces: bytes, pause: float = 0.0) -> list[Answer]:
    """Send the pieces, with pauses between them, and return every answer until the server closes its side.

    Raises TimeoutError where it does not.
    """
    async with connection(port) as (reader, writer):
        sending = asyncio.create_task(send_all(writer, pieces, pause))
        try:
            return [answer async for answer in answers(reader)]
        finally:
            sending.cancel()
            await asyncio.wait([sending])


async def send_all(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...], pause: float) -> None:
    """Send until all is sent or nobody listens any more."""
    with suppress(ConnectionError):
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause)
            writer.write(piece)
            await writer.drain()


async def answers(reader: asyncio.StreamReader) -> AsyncIterator[Answer]:
    """Yield answers until the server closes its side.

    Raises TimeoutError where it does not, ConnectionError for a reset, IncompleteReadError for half an answer.
    """
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                answer = await read_answer(reader)
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise
                return
            if answer.status_code != 100:
                yield answer

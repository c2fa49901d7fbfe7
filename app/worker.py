"""`boatload worker`: the worker side as a process of its own, wherever the database and the store are in reach."""

import asyncio
import signal
from typing import Final

import structlog

from app.bootstrap import worker_name, working
from app.settings import Settings

log: Final = structlog.get_logger("boatload")


async def work(settings: Settings, dsn: str) -> bool:
    """Work until SIGTERM or SIGINT; then what was begun ends within `shutdown_seconds`, and the rest is given back.

    A second signal does what it does to any program. Returns False where it ended because one of its loops died. Raises
    DatabaseUnavailableError or StorageUnavailableError where it cannot start.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(one)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    telling = asyncio.create_task(told.wait())
    async with working(settings, dsn) as loops:
        log.info("working", worker=worker_name())
        await asyncio.wait([telling, *loops], return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    return told.is_set()

"""Work that must not be left half done when its request is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(work: Awaitable[T]) -> T:
    """Wait for the work; where this is cancelled, it is first done all the same."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


async def in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run in a thread, and do not return before that is done, even when cancelled: what follows touches the same."""
    return await to_its_end(asyncio.to_thread(work, *arguments, **named))

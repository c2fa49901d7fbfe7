"""What an answer that waits for something may know of its connection."""

from typing import Any, Final

from starlette.types import Receive, Scope

CYCLE: Final = "boatload.cycle"
"""Where in a scope uvicorn's side of the request is."""


def hold(scope: Scope) -> bool:
    """Let the end of the client's half be the end of the connection from here on; return whether it still is whole.

    For answers that wait for something to happen: a client that went away and one that only closed its half look the
    same until something is sent.
    """
    cycle: Any = scope.get(CYCLE)
    if cycle is not None:
        cycle.is_held = True
    return not getattr(cycle, "is_half_closed", False)


def cut(scope: Scope) -> bool:
    """End a connection in the middle of its answer, which uvicorn then says nothing of; return whether there is one."""
    cycle: Any = scope.get(CYCLE)
    if cycle is None:
        return False
    cycle.disconnected = True
    cycle.transport.abort()
    return True


async def is_gone(receive: Receive) -> None:
    """Return once the client has gone away. The request's body must have been read, or be none."""
    while (await receive())["type"] != "http.disconnect":
        pass

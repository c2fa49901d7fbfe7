"""What `boatload push` does with its arguments."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx

from app.client.files import NamesCollideError, sources
from app.client.push import USAGE, Push
from app.client.remote import Remote
from app.client.state import State
from app.client.views import choose

__all__: Final = ["USAGE", "UsageError", "run"]


class UsageError(Exception):
    """The arguments make no sense together."""


def run(
    paths: Sequence[Path],
    *,
    url: str,
    token: str | None,
    batch_id: UUID | None,
    state_dir: Path,
    as_json: bool,
    patience: float,
) -> int:
    """Send `paths`, or follow the batch where there are none; return the exit code.

    Raises UsageError, and KeyboardInterrupt on Ctrl-C, after which the same call goes on.
    """
    try:
        httpx.URL(url)
        named = sources(paths)
    except (httpx.InvalidURL, NamesCollideError) as error:
        raise UsageError(str(error)) from error
    view = choose(as_json=as_json)

    async def push() -> int:
        remote = Remote(url, token, patience=patience)
        try:
            if not named:
                return await Push(remote, view, batch_id=batch_id).watch()
            state = None if batch_id else State(state_dir, url, [source.path for source in named])
            return await Push(remote, view, state=state, batch_id=batch_id).run(named)
        finally:
            await remote.close()

    return asyncio.run(push())

"""Another owner's id costs the same statements as an id that nobody has: no clock tells one from the other."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import httpx
import pytest

from app.db.pool import Database
from app.main import create_app
from app.settings import load_settings
from tests.support.credentials import bearer, make_key
from tests.support.foreign import DATA, OPERATIONS, make_belongings, unknown
from tests.support.services import OWNER, STRANGER
from tests.support.tus import VERSION, metadata
from tests.support.wire import FORM, File, Text, multipart

if TYPE_CHECKING:
    from app.db.pool import Connection

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
TRIES: Final = 3
_QUIET: Final = 50
_SAVEPOINT: Final = re.compile(r"__asyncpg_savepoint_\w+")
"""Each has a name of its own."""

Request = tuple[str, str, dict[str, Any]]


class Statements:
    """What is asked of databases through the pools of this process, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self._lent = 0
        lend = Database.connection
        heard: list[Connection] = []

        @asynccontextmanager
        async def overheard(database: Database) -> "AsyncIterator[Connection]":
            self._lent += 1
            try:
                async with lend(database) as connection:
                    if connection in heard:  # it is joined
                        yield connection
                        return
                    heard.append(connection)
                    try:
                        with connection.query_logger(lambda record: self.asked.append(record.query)):
                            yield connection
                    finally:
                        heard.remove(connection)
            finally:
                self._lent -= 1

        patch.setattr(Database, "connection", overheard)

    async def of(self, client: httpx.AsyncClient, request: Request) -> tuple[int, list[str]]:
        """The status of an answer, and the statements that it took, those behind the answer as well."""
        await self._rest()
        self.asked.clear()
        method, path, more = request
        answer = await client.request(method, path, **more)
        await self._rest()
        return answer.status_code, [_SAVEPOINT.sub("savepoint", statement) for statement in self.asked]

    async def _rest(self) -> None:
        """Wait until nobody has a connection, nor takes one at once."""
        quiet = 0
        while quiet < _QUIET:
            quiet = 0 if self._lent else quiet + 1
            await asyncio.sleep(0)


def named_inside(batch: str, upload: str, own: str) -> list[Request]:
    """Requests that name things elsewhere than in their path."""
    named, final = metadata(batch_id=batch), f"final;/v1/tus/{upload}"
    return [
        ("POST", f"/v1/batches/{own}/retry", {"json": {"upload_ids": [upload]}}),
        ("POST", "/v1/uploads", {"content": multipart(Text("batch_id", batch), File("x", DATA)), "headers": FORM}),
        ("GET", f"/v1/webhooks/deliveries?batch_id={batch}", {}),
        ("POST", "/v1/tus", {"headers": VERSION | {"upload-length": "4", "upload-metadata": named}}),
        ("POST", "/v1/tus", {"headers": VERSION | {"upload-concat": final}}),
    ]


async def test_a_foreign_id_takes_the_statements_of_one_that_nobody_has(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = Statements(monkeypatch)
    settings = load_settings(data_dir=tmp_path, database_url=database_url, worker=False, webhook_allow_private=True)
    app = create_app(settings, database_url)
    mine, theirs = (bearer(make_key(database_url, owner=owner)) for owner in (OWNER, STRANGER))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://boatload", headers=mine) as owner,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://boatload", headers=theirs) as stranger,
    ):
        belongings = await make_belongings(owner)
        own = (await stranger.post("/v1/batches", json={})).json()["id"]
        pairs: list[tuple[Request, Request]] = []
        for operation in (one for one in OPERATIONS.values() if one.ids):
            for ids in belongings.named_by(operation):
                foreign, nobodys = operation.url(ids), operation.url(unknown(ids))
                pairs += [
                    ((operation.method, foreign, one), (operation.method, nobodys, other))
                    for one, other in zip(operation.requests(), operation.requests(), strict=True)
                ]
        for batch, upload in zip(belongings.ids["batch_id"], reversed(belongings.ids["upload_id"]), strict=False):
            nobodys_requests = named_inside(str(uuid4()), str(uuid4()), own)
            pairs += zip(named_inside(batch, upload, own), nobodys_requests, strict=True)
        looked = 0
        for foreign_request, nobodys_request in pairs:
            for _ in range(TRIES):  # what is late of the request before is not there again
                found = await statements.of(stranger, foreign_request)
                wanted = await statements.of(stranger, nobodys_request)
                if found == wanted:
                    break
            assert found == wanted, (foreign_request, list(unified_diff(found[1], wanted[1], n=0)))
            looked += bool(found[1])
        assert looked > len(pairs) / 2

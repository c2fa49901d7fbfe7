"""Hundreds of clients that stall or trickle keep nobody else out, and are all sent away."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.census import unchanged
from tests.support.postgres import Servers
from tests.support.raw import talk
from tests.support.server import Boatload, serving
from tests.support.wire import CONTENT_TYPE, FORM, File, all_uploads, finished, multipart, request_head

CLIENTS = 500
SECONDS = 5
BODY = multipart(File("never-whole", bytes(100_000)))


@pytest.fixture(scope="module")
def hasty(postgres_servers: Servers) -> Iterator[Boatload]:
    database = postgres_servers.get("18").create_migrated()
    with serving(database_url=database, head_seconds=SECONDS, body_seconds=SECONDS, body_bytes_per_second=100) as made:
        yield made


@pytest.mark.parametrize("trickles", [False, True], ids=["stalled", "trickling"])
async def test_hundreds_that_stall_or_trickle_are_sent_away_while_others_are_served(
    hasty: Boatload, *, trickles: bool
) -> None:
    head = request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY))
    waiting = asyncio.Event()
    ended = Counter[int]()

    async def stall(number: int) -> None:
        """One in four within its head, the others at different places of the body."""
        sent = head[:-2] if number % 4 == 0 else head + BODY[: number * 100]
        rest = (b"a" * 100 if number % 4 == 0 else BODY[number * 100 :][:100]) if trickles else b""
        pieces = [rest[at : at + 1] for at in range(len(rest))]
        answers = await talk(hasty.port, sent, *pieces, pause=0.5)
        ended[answers[0].status_code if len(answers) == 1 else 0] += 1

    async def work() -> list[str]:
        urls = []
        async with hasty.async_client() as api:
            while not waiting.is_set():
                answer = await api.post("/v1/uploads", content=multipart(File("a", b"x")), headers=FORM)
                assert answer.status_code == 201
                assert (await api.get(answer.json()["url"])).status_code == 200
                urls.append(answer.json()["url"])
        return urls

    working = asyncio.create_task(work())
    with hasty.client() as client:
        await asyncio.gather(*(stall(number) for number in range(CLIENTS)))
        waiting.set()
        urls = await working
        assert ended == {408: CLIENTS}
        assert urls
        for url in urls:
            assert finished(client, url)["successful_uploads"] == 1
            assert len(all_uploads(client, url)) == 1


async def test_a_client_that_stalls_costs_nothing_once_it_is_gone(hasty: Boatload) -> None:
    head = request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY))
    with unchanged(hasty):
        answers = await asyncio.gather(*(talk(hasty.port, head + BODY[:50_000]) for _ in range(50)))
        assert {one.status_code for found in answers for one in found} == {408}

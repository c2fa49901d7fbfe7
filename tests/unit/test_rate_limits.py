"""How requests are counted, by a clock that a test moves."""

import re
from typing import Final
from uuid import UUID

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.dependencies import CALLER
from app.api.rate_limits import WINDOW_SECONDS, RateLimits, Rates
from app.domain.access import ALL_SCOPES, Caller, CredentialKind

REQUESTS, WRITES = 5, 2
LEFT: Final = re.compile(r'"requests";r=(\d+);t=(\d+)(?:, "writes";r=(\d+);t=\d+)?')


class Clock:
    """Seconds, as far as a test moves them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def answering(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def nothing() -> Message:
    raise AssertionError("no body is read here")


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Limited:
    """Rates around an application, and whoever asks."""

    def __init__(self, clock: Clock) -> None:
        limits = Rates(requests=REQUESTS, writes=WRITES, bodies=None, trust_proxy=False)
        self._app: Final = RateLimits(answering, limits=limits, clock=clock)

    async def ask(self, method: str = "GET", *, who: int = 1) -> tuple[int, list[int]]:
        """The status, and what is left: requests, seconds, writes."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        caller = Caller(UUID(int=who), ALL_SCOPES, CredentialKind.KEY, "a key")
        await self._app({"type": "http", "method": method, "headers": [], CALLER: caller}, nothing, send)
        headers = dict(sent[0]["headers"])
        found = LEFT.fullmatch(headers[b"ratelimit"].decode())
        assert found
        return sent[0]["status"], [int(number) for number in found.groups() if number is not None]


@pytest.fixture
def limited(clock: Clock) -> Limited:
    return Limited(clock)


async def test_a_minute_begins_with_the_first_request_and_a_new_one_behind_it(clock: Clock, limited: Limited) -> None:
    answers = [await limited.ask() for _ in range(REQUESTS + 1)]
    assert answers == [*((200, [left, WINDOW_SECONDS]) for left in range(REQUESTS - 1, -1, -1)), (429, [0, 60])]
    clock.now += WINDOW_SECONDS - 0.5
    assert await limited.ask() == (429, [0, 1])
    clock.now += 0.5
    assert await limited.ask() == (200, [REQUESTS - 1, WINDOW_SECONDS])


async def test_what_is_refused_is_counted_nowhere_behind_its_rate(limited: Limited) -> None:
    assert [(await limited.ask("POST"))[0] for _ in range(WRITES + 1)] == [200, 200, 429]
    assert await limited.ask() == (200, [REQUESTS - WRITES - 2, WINDOW_SECONDS])
    assert await limited.ask() == (200, [0, WINDOW_SECONDS])
    assert await limited.ask("POST") == (429, [0, WINDOW_SECONDS, 0])


async def test_each_caller_has_a_minute_of_their_own(clock: Clock, limited: Limited) -> None:
    """Whoever asks keeps nobody's minute alive, nor ends it."""
    for who in range(10):
        assert await limited.ask(who=who) == (200, [REQUESTS - 1, WINDOW_SECONDS])
        clock.now += 5
    assert await limited.ask(who=9) == (200, [REQUESTS - 2, WINDOW_SECONDS - 5])
    clock.now += 15
    assert await limited.ask(who=0) == (200, [REQUESTS - 1, WINDOW_SECONDS])
    assert await limited.ask(who=2) == (200, [REQUESTS - 2, 5])

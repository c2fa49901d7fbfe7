"""How often somebody may ask, and how many bodies they may send at once: said before a body is read.

Counted in memory, by each process for itself, in windows of a minute that begin with a caller's first request.
RateLimit fields: draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.authentication import may_have_body
from app.api.dependencies import CALLER
from app.api.forwarded import client_address
from app.api.problems import answer_error
from app.domain.access import Caller, CredentialKind
from app.domain.errors import TooManyRequestsError
from app.settings import Settings

WINDOW_SECONDS: Final = 60
_READING: Final = frozenset({"GET", "HEAD"})
_BODY_RETRY_SECONDS: Final = 1
_IPV6_NETWORK: Final = 64
"""What one household or machine has, of an IPv6 address."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What is limited; None where it is not."""

    requests: int | None
    """In a minute."""
    writes: int | None
    """Of these, what is no GET or HEAD."""
    bodies: int | None
    """At the same time."""
    trust_proxy: bool
    """Whether proxies say which address a request came from."""


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    item: RateLimitItem
    reads: bool

    @property
    def field(self) -> str:
        return f'"{self.name}";q={self.item.amount};w={WINDOW_SECONDS}'


class RateLimits:
    """ASGI middleware behind Authentication: refuses with 429 whoever asks too often, and says what is left.

    A caller is an owner, by whatever credential; one without is the address that the request came from. Paths that are
    for everybody are not limited. A refusal ends its connection where a body may follow.
    """

    def __init__(self, app: ASGIApp, *, limits: Rates, clock: Callable[[], float] = time.time) -> None:
        self._app: Final = app
        self._clock: Final = clock
        self._trust_proxy: Final = limits.trust_proxy
        self._most_bodies: Final = limits.bodies
        self._bodies: Final[Counter[str]] = Counter()
        self._windows: Final = FixedWindowRateLimiter(MemoryStorage())
        self._policies: Final = [
            _Policy(name, RateLimitItemPerMinute(amount), reads)
            for name, amount, reads in (("requests", limits.requests, True), ("writes", limits.writes, False))
            if amount is not None
        ]

    @staticmethod
    def of(settings: Settings) -> Rates | None:
        """Return what is limited, None where nothing is."""
        limited = (settings.rate_requests, settings.rate_writes, settings.rate_bodies)
        return None if limited == (None, None, None) else Rates(*limited, trust_proxy=settings.trust_proxy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        caller: Caller | None = scope.get(CALLER)
        if caller is None:
            await self._app(scope, receive, send)
            return
        who = self._who(caller, scope)
        policies = [policy for policy in self._policies if policy.reads or scope["method"] not in _READING]
        over = next((one for one in policies if not self._windows.hit(one.item, one.name, who)), None)
        fields = self._fields(policies, who)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        if over:
            await self._refuse(over.name, self._seconds_left(over, who), scope, receive, told)
        elif self._most_bodies is not None and may_have_body(scope):
            await self._pass_body(who, scope, receive, told)
        else:
            await self._app(scope, receive, told)

    async def _pass_body(self, who: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request with a body through, unless as many are being received as may be."""
        if self._bodies[who] == self._most_bodies:
            await self._refuse("bodies", _BODY_RETRY_SECONDS, scope, receive, send)
            return
        self._bodies[who] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._bodies[who] -= 1
            if not self._bodies[who]:
                del self._bodies[who]

    async def _refuse(self, policy: str, seconds: int, scope: Scope, receive: Receive, send: Send) -> None:
        many = "too many bodies at the same time" if policy == "bodies" else f"more {policy} than a minute may have"
        error = TooManyRequestsError(f"You send {many}. Try again in {seconds} s.", policy=policy)
        headers = {"Retry-After": str(seconds), "Cache-Control": "no-store"}
        await answer_error(error, **headers)(scope, receive, send)

    def _fields(self, policies: list[_Policy], who: str) -> list[tuple[bytes, bytes]]:
        if not policies:
            return []
        left = [self._windows.get_window_stats(policy.item, policy.name, who).remaining for policy in policies]
        items = (
            f'"{policy.name}";r={remaining};t={self._seconds_left(policy, who)}'
            for policy, remaining in zip(policies, left, strict=True)
        )
        declared = ", ".join(policy.field for policy in policies)
        return [(b"ratelimit-policy", declared.encode()), (b"ratelimit", ", ".join(items).encode())]

    def _seconds_left(self, policy: _Policy, who: str) -> int:
        reset = self._windows.get_window_stats(policy.item, policy.name, who).reset_time
        return max(1, math.ceil(reset - self._clock()))

    def _who(self, caller: Caller, scope: Scope) -> str:
        if caller.kind is not CredentialKind.NONE:
            return str(caller.owner)
        peer = scope["client"][0] if scope["client"] else ""
        address = client_address(Headers(scope=scope), peer, trust_proxy=self._trust_proxy)
        if isinstance(address, IPv6Address):
            return str(IPv6Network((address, _IPV6_NETWORK), strict=False))
        return str(address)

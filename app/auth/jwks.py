"""The keys of an issuer, as its JWK Set has them (RFC 7517): kept, and fetched again when they are old."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import httpx
import jwt
import structlog
from jwt.algorithms import AllowedPublicKeys

from app.domain.errors import IssuerUnavailableError

log: Final = structlog.get_logger("boatload.auth")

FRESH_SECONDS: Final = 300.0
"""So old keys are fetched again when they are next needed."""
STALE_SECONDS: Final = 3600.0
"""So old keys are still used where the issuer is out of reach, and no older ones."""
PAUSE_SECONDS: Final = 10.0
"""Between two tries to fetch, whatever is asked for."""
_FETCH_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 0.5
"""How long a key that is known waits to be confirmed."""
_MOST_BYTES: Final = 1 << 20
_NEVER: Final = -1e9
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "EdDSA": "OKP"}
# Whatever is wrong with an answer, or with the way to it.
_FAULTS: Final = (
    *(httpx.HTTPError, httpx.InvalidURL, jwt.PyJWTError, OSError),
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),
)

PublicKey: TypeAlias = AllowedPublicKeys


@dataclass(frozen=True, slots=True)
class Jwk:
    """One key that signatures are verified with."""

    key: PublicKey
    algorithm: str | None
    """The only one that it is for; None: any of its family."""


class KeySet:
    """The keys behind one URL, of one family of algorithms. One per process and issuer, on one event loop."""

    def __init__(self, url: str, family: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._url: Final = url
        self._kind: Final = _KINDS[family]
        self._now: Final = now
        self._refreshing: asyncio.Task[None] | None = None
        self._keys: Mapping[str | None, Jwk] = {}
        self._fetched = self._tried = _NEVER

    async def find(self, kid: str | None) -> Jwk | None:
        """Return the key of that id, or the only key for None; None where the issuer has no such key.

        An issuer that hangs keeps nobody waiting for long whose key is here. Raises IssuerUnavailableError where nobody
        can tell.
        """
        found = self._usable(kid)
        is_old = self._now() > self._fetched + FRESH_SECONDS
        if (found is None or is_old) and (refreshing := self._refresh()):
            await asyncio.wait([refreshing], timeout=None if found is None else _PATIENCE_SECONDS)
            found = self._usable(kid)
        if found is None and self._fetched < self._tried:
            raise IssuerUnavailableError
        return found

    def _usable(self, kid: str | None) -> Jwk | None:
        return self._chosen(kid) if self._now() <= self._fetched + STALE_SECONDS else None

    def _chosen(self, kid: str | None) -> Jwk | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _refresh(self) -> "asyncio.Task[None] | None":
        """Return the task that fetches the keys, a new one unless that was tried a moment ago; None where none runs."""
        if self._refreshing is not None and not self._refreshing.done():
            return self._refreshing
        if self._now() < self._tried + PAUSE_SECONDS:
            return None
        self._tried = self._now()
        self._refreshing = asyncio.create_task(self._replace_keys(), name="keys of an issuer")
        return self._refreshing

    async def _replace_keys(self) -> None:
        """Fetch the keys; what is known stays where it fails."""
        try:
            self._keys = await asyncio.to_thread(self._fetch)
        except _FAULTS as error:
            # Without what may be a secret in it: credentials and query.
            shown = self._url.partition("?")[0].rpartition("@")[2]
            log.warning("keys of an issuer not fetched", url=shown, error=f"{type(error).__name__}: {error}")
        else:
            self._fetched = self._now()

    def _fetch(self) -> dict[str | None, Jwk]:
        deadline = time.monotonic() + _FETCH_SECONDS
        body = bytearray()
        with httpx.stream("GET", self._url, timeout=_FETCH_SECONDS, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"the answer is {answer.status_code}")
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES or time.monotonic() > deadline:
                    raise ValueError("too much, or too slow")
        described = json.loads(bytes(body))
        found = [key for data in described["keys"] if (key := self._read(data))]
        return dict(found)

    def _read(self, data: Mapping[str, Any]) -> tuple[str | None, Jwk] | None:
        """Return a key by its id; None for what no signature here is verified with, as secrets."""
        if data.get("kty") != self._kind or data.get("use", "sig") != "sig":
            return None
        try:
            key = jwt.PyJWK(dict(data)).key
        except jwt.PyJWTError:
            return None  # of a kind that is not known here; the others are no worse for it
        return data.get("kid"), Jwk(key, data.get("alg"))

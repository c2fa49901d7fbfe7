"""One attempt: a POST to a receiver that may be slow, broken, or somebody's trap.

Names are looked up here, and every address of a name must be public, before anything is connected: httpx-secure alone
finds the address of a name by connecting to it. Then it gets the address, holds it against the same rule at the very
moment of connecting, and goes nowhere else; TLS still checks the name. No redirects, no proxies, no cookies, no reuse
of a connection, which is known by its address alone and could be another name's.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from app.domain.address import Address, is_public
from app.domain.errors import InvalidWebhookUrlError
from app.domain.webhook_url import WebhookUrl, parse_webhook_url
from app.webhooks.policy import Answer

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

MAX_BODY_BYTES: Final = 4096
_MAX_ADDRESSES: Final = 3
_MAX_ERROR: Final = 300
_LOOKUPS: Final = 64
_NOT_PUBLIC: Final = "the name leads to an address that is not public; nothing was connected"
_GUARDED: Final = "the address is not public, and the guard of the connection did not let it pass"


class _AttemptError(Exception):
    """Why there was no answer, in words for the receiver's owner."""


class Resolver:
    """Looks names up, in threads of its own: a name server that hangs keeps no commit waiting.

    Whoever made it closes it.
    """

    def __init__(self) -> None:
        self._threads: Final = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="webhook-names")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of a host in the order to try them. Raises OSError or UnicodeError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [ip_address(where[0]) for *_, where in found]

    def close(self) -> None:
        """Wait for nobody who still looks."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends messages. `seconds` is how long one attempt may take, all of it: name, connection, TLS, answer."""

    resolve: Resolve
    seconds: float
    allow_private: bool
    tls: ssl.SSLContext

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST, and return what came of it. The status decides, whatever becomes of the answer's body."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        try:
            where = parse_webhook_url(url, allow_private=self.allow_private)
            async with asyncio.timeout_at(deadline):
                addresses = await self._addresses(where)
            connect = self.seconds / len(addresses)
            for address in addresses[:-1]:
                with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                    return await self._post(where, address, headers, body, connect=connect, deadline=deadline)
            return await self._post(where, addresses[-1], headers, body, connect=connect, deadline=deadline)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(error=f"no answer within {self.seconds:g} seconds")
        except SSRFProtectionError:
            return Answer(error=_GUARDED)
        except (_AttemptError, InvalidWebhookUrlError) as error:
            return Answer(error=str(error))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Answer(error=f"{type(error).__name__}: {error}".removesuffix(": ")[:_MAX_ERROR])

    async def _addresses(self, where: WebhookUrl) -> Sequence[Address]:
        """Return where to connect to, at least one. Raises _AttemptError; one that is not public spoils the name."""
        address = where.address
        try:
            found = [address] if address else await self.resolve(where.host, where.port)
        except (OSError, UnicodeError) as error:
            raise _AttemptError(f"the name cannot be looked up: {error}"[:_MAX_ERROR]) from error
        if not found:
            raise _AttemptError("the name has no address")
        if not self.allow_private and not all(is_public(one) for one in found):
            raise _AttemptError(_NOT_PUBLIC)
        return found[:_MAX_ADDRESSES]

    async def _post(
        self,
        where: WebhookUrl,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect: float,
        deadline: float,
    ) -> Answer:
        """Ask one address. Raises TimeoutError past the deadline, and whatever httpx says."""
        async with self.client(connect=connect) as client:
            request = client.build_request(
                "POST",
                httpx.URL(scheme=where.scheme, host=str(address), port=where.port, raw_path=where.target.encode()),
                headers={**headers, "Host": where.authority},
                content=body,
                extensions={"sni_hostname": where.host},
            )
            async with asyncio.timeout_at(deadline):
                response = await client.send(request, stream=True)
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout_at(deadline):
                    await _read_some(response)
            await response.aclose()
            return Answer(response.status_code, retry_after=response.headers.get("retry-after"))

    def client(self, *, connect: float) -> httpx.AsyncClient:
        """Return a guarded client for one attempt, with `connect` seconds to connect. Whoever asked closes it."""
        client = httpx.AsyncClient(verify=self.tls, trust_env=False, timeout=httpx.Timeout(None, connect=connect))
        if not self.allow_private:
            httpx_ssrf_protection(client, custom_validator=lambda _host, address, _port: is_public(address))
        return client


def trusted() -> ssl.SSLContext:
    """Return what receivers' certificates are checked with: the usual authorities, or those of SSL_CERT_FILE."""
    return httpx.create_ssl_context()


async def _read_some(response: httpx.Response) -> None:
    """Read up to 4 KiB, so that a receiver whose answer is short can end in good order; nothing of it is kept."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size >= MAX_BODY_BYTES:
            break

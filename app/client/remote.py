"""The service, seen from outside: its API over a bounded pool of connections, tried again while it is away."""

import asyncio
import ipaddress
import json
import mimetypes
import random
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx

from app.client.files import Entry

CONNECTIONS: Final = 32
MANY: Final = 2000
"""So many entries are declared in one call at most. The service takes 10,000, which are 30 MB in here and no faster."""
_PAGE: Final = 1000
_FIRST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 5.0
_TIMEOUT: Final = httpx.Timeout(connect=10, read=120, write=30, pool=None)
_AGAIN: Final = frozenset({408, 423, 425, 429})
_IN_FLIGHT: Final = "idempotency-key-in-flight"
_STRANGE: Final = "What answers there is not Boatload."
_SERVER_ERROR: Final = 500
_ERROR: Final = 300

Json = dict[str, Any]


class AwayError(Exception):
    """The service did not answer, or not sensibly, for as long as we wait."""


class BusyError(Exception):
    """This attempt failed and another may not; `after` seconds at the least."""

    def __init__(self, detail: str, after: float = 0) -> None:
        super().__init__(detail)
        self.after: Final = after


class ProblemError(Exception):
    """The service said no, and will say so again."""

    def __init__(
        self, status: int, code: str, detail: str, refs: Sequence[str] = (), results: "Sequence[Json]" = ()
    ) -> None:
        super().__init__(detail)
        self.status: Final = status
        self.code: Final = code
        """The slug of its `type`."""
        self.detail: Final = detail
        self.refs: Final = refs
        """The files that it is about, where it names some."""
        self.results: Final = results
        """What is said of each file, where several were sent."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A file, and what is left to do for it."""

    entry: Entry
    upload_id: str
    file_url: str
    """Takes it whole, on the shortest way: its ref in the batch."""
    content_url: str
    """Takes it from any offset on."""
    have: bool
    offset: int
    refused: bool
    """It was sent before with other bytes than were declared."""


class Retries:
    """Waits between attempts at one thing, longer each time, and gives up after `patience` seconds without success."""

    def __init__(self, patience: float) -> None:
        self._patience: Final = patience
        self._count = 0
        self._since = 0.0

    def reset(self) -> None:
        """Begin anew, because something went forward."""
        self._count = 0

    async def pause(self, error: BusyError) -> None:
        """Wait before the next attempt. Raises AwayError where there is to be none."""
        now = monotonic()
        if not self._count:
            self._since = now
        left = self._since + self._patience - now
        if left <= 0:
            raise AwayError(str(error)) from error
        wait = min(_FIRST_SECONDS * 2**self._count, _LONGEST_SECONDS) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        self._count += 1
        await asyncio.sleep(min(max(wait, error.after), left))


class Remote:
    """One service. All methods may raise AwayError and ProblemError; BusyError only those that say so."""

    def __init__(self, url: str, token: str | None, *, patience: float) -> None:
        self.patience: Final = patience
        self._url: Final = httpx.URL(url)
        self._headers: Final = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls: Final = httpx.create_ssl_context()
        self._idle: Final[list[httpx.AsyncClient]] = []

    async def close(self) -> None:
        """Close the connections, once nothing is asked any more."""
        for client in self._idle:
            await client.aclose()

    @contextmanager
    def _client(self) -> Iterator[httpx.AsyncClient]:
        """Lend a client of one connection: a pool of many looks at each of them for every request."""
        client = (
            self._idle.pop()
            if self._idle
            else httpx.AsyncClient(
                base_url=self._url,
                headers=self._headers,
                timeout=_TIMEOUT,
                limits=httpx.Limits(max_connections=1, keepalive_expiry=4),
                trust_env=not _is_loopback(self._url.host),
                verify=self._tls,
            )
        )
        try:
            yield client
        finally:
            self._idle.append(client)

    async def open_batch(self, label: str) -> Json:
        """Open a batch, and return it. However often its answer is lost, there is one."""
        return await self._call("POST", "/v1/batches", json={"label": label}, headers={"Idempotency-Key": str(uuid4())})

    async def get_batch(self, batch_id: UUID) -> Json:
        """Return the account of a batch."""
        return await self._call("GET", f"/v1/batches/{batch_id}")

    async def seal(self, batch_id: UUID) -> Json:
        """Say that nothing more will come."""
        return await self._call("POST", f"/v1/batches/{batch_id}/seal")

    async def cancel(self, batch_id: UUID) -> Json:
        """Cancel what is unfinished in a batch."""
        return await self._call("POST", f"/v1/batches/{batch_id}/cancel")

    async def declare(self, batch_id: UUID, entries: Sequence[Entry]) -> list[Declared]:
        """Declare files, up to `MANY`, and return what is left to do for each, in their order."""
        files = [
            {"ref": entry.ref, "filename": entry.ref, "size_bytes": entry.size, "sha256": entry.sha256.hex()}
            | ({"content_type": kind} if (kind := mimetypes.guess_type(entry.ref)[0]) else {})
            for entry in entries
        ]
        answer = await self._call("POST", f"/v1/batches/{batch_id}/manifest", json={"entries": files})
        return [
            Declared(
                entry,
                told["upload_id"],
                f"/v1/batches/{batch_id}/files/{quote(entry.ref)}",
                told["content_url"],
                told["action"] == "have",
                told["offset"],
                told["status"] == "failed",
            )
            for entry, told in zip(entries, answer["entries"], strict=True)
        ]

    async def get_upload(self, upload_id: str) -> Json:
        """Return an upload."""
        return await self._call("GET", f"/v1/uploads/{upload_id}")

    async def drop(self, upload_id: str) -> None:
        """Take an upload out of its batch; one that is not there is none to be taken."""
        try:
            await self._call("DELETE", f"/v1/uploads/{upload_id}")
        except ProblemError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    async def uploads(self, batch_id: UUID, status: str) -> AsyncIterator[Json]:
        """Yield the uploads of a batch that are in that state."""
        url = f"/v1/batches/{batch_id}/uploads?status={status}&limit={_PAGE}"
        cursor = None
        while True:
            page = await self._call("GET", url + (f"&cursor={cursor}" if cursor else ""))
            for upload in page["items"]:
                yield upload
            cursor = page["next_cursor"]
            if not cursor:
                return

    async def put(self, file: Declared, data: bytes) -> Json:
        """Send a whole file once, and return its upload. Raises BusyError where it is worth another try."""
        return await self._once("PUT", file.file_url, content=data)

    async def send_files(
        self, batch_id: UUID, body: AsyncIterable[bytes], *, length: int, content_type: str, count: int
    ) -> Sequence[Json]:
        """Send a multipart body of so many files under their refs once; return the result of each, in their order.

        Raises as `put` does; then each of them may be there or not.
        """
        headers = {"Content-Type": content_type, "Content-Length": str(length)}
        url = f"/v1/batches/{batch_id}/uploads?ref=filename"
        try:
            answer = await self._once("POST", url, content=body, headers=headers)
            results: Sequence[Json] = answer.get("results") or ()
        except ProblemError as error:
            if error.code != "no-file-taken":
                raise
            results = error.results
        if len(results) != count:
            raise BusyError(_STRANGE)
        return results

    async def append(self, file: Declared, body: bytes | AsyncIterable[bytes], *, offset: int) -> Json:
        """Send the rest of a file from `offset` on once, and return its upload. Raises as `put` does."""
        headers = {"Upload-Offset": str(offset), "Content-Length": str(file.entry.size - offset)}
        return await self._once("PUT", file.content_url, content=body, headers=headers)

    async def _call(self, method: str, url: str, **more: object) -> Json:
        """Ask until there is an answer. Only for what may be asked twice."""
        retries = Retries(self.patience)
        while True:
            try:
                return await self._once(method, url, **more)
            except BusyError as error:
                await retries.pause(error)

    async def _once(self, method: str, url: str, **more: Any) -> Json:  # noqa: ANN401 - what httpx takes
        try:
            with self._client() as client:
                answer = await client.request(method, url, **more)
        except httpx.TransportError as error:
            where = self._url.netloc.decode()  # without any credentials
            raise BusyError(f"{where} does not answer: {str(error) or type(error).__name__}") from error
        if answer.status_code < _ERROR:
            return _object(answer.content) if answer.content else {}
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> Exception:
    """Return the error for an answer that is none of the good ones."""
    status = answer.status_code
    try:
        problem = _object(answer.content)
    except BusyError:
        problem = {}
    detail = str(problem.get("detail") or f"It answers {status} {answer.reason_phrase}.")
    code = str(problem.get("type") or status).rpartition("/")[2]
    if status >= _SERVER_ERROR or status in _AGAIN or code == _IN_FLIGHT:
        return BusyError(detail, _seconds(answer.headers))
    refs = [str(ref) for ref in problem.get("refs") or [] if ref is not None]
    return ProblemError(status, code, detail, refs, problem.get("results") or ())


def _object(content: bytes) -> Json:
    try:
        found = json.loads(content)
    except ValueError:
        raise BusyError(_STRANGE) from None
    if not isinstance(found, dict):
        raise BusyError(_STRANGE)
    return found


def _seconds(headers: Mapping[str, str]) -> float:
    """Return how long the service asks us to wait; a date, which it never sends, is no time."""
    value = headers.get("retry-after", "")
    return min(float(value), 60) if value.isdecimal() else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

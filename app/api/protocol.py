"""uvicorn's HTTP/1.1 with what it lacks: limits and deadlines for heads, refusals as problems, an orderly end.

Whatever is refused here takes its turn behind the answers that are still due, and ends the connection.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import httptools
import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.lingering import Lingering
from app.api.problems import answer_error
from app.api.reading import Inbox, Reading
from app.api.request_head import check_head, too_large
from app.api.request_log import RequestLog
from app.api.unread import Unread
from app.domain.errors import BoatloadError
from app.domain.limits import MAX_CHUNK_OVERHEAD_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED
from app.domain.request_errors import MalformedRequestError, RequestTimeoutError

log: Final = structlog.get_logger("boatload.http")

_ERROR: Final = "boatload.refusal"
_CHUNK_BYTES: Final = 16
"""What the frame of a chunk may take beside its bytes."""
_CRUMBS_BYTES: Final = 4096
"""So little of a body is not worth a pause."""


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_error(scope[_ERROR])(scope, receive, send)


_REFUSAL: Final = RequestLog(_refuse)


class Protocol(HttpToolsProtocol):
    """One connection.

    `head_seconds`: how long a head may take, from the connection or its first byte to its end. `unread_seconds` and
    `unread_bytes_per_second`: how slowly a client may read its answer.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_seconds: float,
        unread_seconds: float,
        unread_bytes_per_second: float,
        inbox: Inbox,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_seconds: Final = head_seconds
        self._watching: Final = partial(Unread, seconds=unread_seconds, bytes_per_second=unread_bytes_per_second)
        self._inbox: Final = inbox
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._same = True
        """No head and no message has ended in the bytes that are being parsed."""
        self._head_bytes = 0
        self._overhead = 0
        self._upgrade = False
        self._refused = False
        self._unread: Unread = None  # type: ignore[assignment]  # uvicorn's own way with what comes later
        self._answering: RequestResponseCycle | None = None
        self._lingering: Lingering = None  # type: ignore[assignment]  # as above

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, and give the client its time for a head."""
        transport.set_protocol(Reading(self, self._inbox, self.connections))
        self._unread = self._watching(transport, self.loop)
        self._lingering = Lingering(transport, self.loop, self._goes_on, self._unread)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        self._head_timer = self.loop.call_later(self._head_seconds, self._head_expired)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._lingering.end()
        for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:  # uvicorn tells only the one that came last
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        self.resume_writing()
        self._unread.stop()

    def pause_writing(self) -> None:
        """Give the client its time to read what was answered."""
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        """Go on answering; or where all is said, have the rest read as well."""
        self._unread.begin() if self.transport.is_closing() else self._unread.stop()
        super().resume_writing()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio.Protocol has it so; uvicorn narrows it
        """Keep the connection for as long as a whole request waits for its answer; else let it be closed."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        answering: Any = self._answering
        if cycle is None or cycle.more_body or cycle.response_complete or getattr(answering, "is_held", False):
            return False
        answering.is_half_closed = cycle.is_half_closed = True
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless nobody wants it any more."""
        if self._refused or self.transport.is_closing():
            self._lingering.drop(len(data))
            return
        self._unset_keepalive_if_required()
        self._same = True
        try:
            self.parser.feed_data(data)
            if self._same:
                self._count(len(data))
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            self._refuse(_cause(error))
        except BoatloadError as error:
            self._refuse(error)
        else:
            cycle: Any = self.cycle
            waits = cycle is None or cycle.response_complete
            if waits and self._in_head and self._head_timer is None:
                self._head_timer = self.loop.call_later(self._head_seconds, self._head_expired)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field. Fields behind a body are passed over (RFC 9110 §6.5.1)."""
        if not self._in_head:
            return
        if len(self.headers) >= MAX_HEADERS:
            raise too_large()
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Begin the request, if it is one."""
        self._in_head = self._same = False
        self._head_bytes = self._overhead = 0
        self._stop_timer()
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self.scope["method"] = method.decode("ascii")
        head = check_head(method, self.url, version, self.headers)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequestError(f"More than {MAX_PIPELINED} requests wait for their answers.")
        self._upgrade = self.parser.should_upgrade()
        if self._upgrade:
            return
        self.url = head.target
        if head.authority is not None:
            others = [field for field in self.headers if field[0] != b"host"]
            self.headers[:] = [*others, (b"host", head.authority)]
        self.expect_100_continue = self.expect_100_continue and version == "1.1"
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Allow a chunk its frame."""
        self._overhead -= _CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        """Take bytes of the body, and few more of them before these are asked for."""
        self._overhead -= len(body)
        super().on_body(body)
        if len(self.cycle.body) > _CRUMBS_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """End a request."""
        self._in_head, self._same = True, False
        if not self._upgrade:
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()

    def shutdown(self) -> None:
        """Take no further request."""
        self._lingering.end() if self._lingering.is_closing() else super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _goes_on(self) -> bool:
        """Say whether the client may be sending what nobody will read."""
        cycle: Any = self.cycle
        return self._refused or (cycle is not None and cycle.more_body)

    def _count(self, size: int) -> None:
        """Count bytes of a head that has no end yet, or what is none of a body in one that is chunked."""
        if self._in_head:
            self._head_bytes += size
            if self._head_bytes > MAX_HEAD_BYTES:
                raise too_large()
            return
        self._overhead = max(0, self._overhead + size)
        if self._overhead > MAX_CHUNK_OVERHEAD_BYTES:
            raise MalformedRequestError("The body is more frame than chunks.")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Take the request as if it had not asked for another protocol (RFC 9110 §7.8).

        The parser takes what follows the head for that protocol; so it is given a head that does not ask.
        """
        self._upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        fields = b"".join(b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        version = self.scope["http_version"].encode()
        line = b"%b %b HTTP/%b\r\n" % (self.scope["method"].encode(), self.url, version)
        self.data_received(line + fields + b"\r\n" + rest)

    def _refuse(self, error: BoatloadError) -> None:
        """Take nothing more: the request that is being received breaks off, or what is no request is answered."""
        self._stop_timer()
        self._refused = True
        previous: Any = self.cycle
        if previous is not None and previous.more_body and not previous.response_complete:
            previous.fault = error
            previous.message_event.set()
            return
        asked: Any = self.scope or {}
        scope: Any = {
            "type": "http",
            "method": asked.get("method", "-"),
            "path": self.url[:200].decode("latin-1") if asked else "",
            "headers": list(self.headers or ()),
            _ERROR: error,
        }
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        if previous is None or previous.response_complete:
            self._start_asgi_task(self.cycle, cast("Any", _REFUSAL))
        else:
            self.pipeline.appendleft((self.cycle, cast("Any", _REFUSAL)))

    def _head_expired(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse(RequestTimeoutError(f"The head of a request did not come within {self._head_seconds:g} s."))
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def protocol(
    *, head_seconds: float, unread_seconds: float, unread_bytes_per_second: float
) -> Callable[..., asyncio.Protocol]:
    """Return what makes a connection for `uvicorn.Config(http=…)`."""
    return partial(
        Protocol,
        head_seconds=head_seconds,
        unread_seconds=unread_seconds,
        unread_bytes_per_second=unread_bytes_per_second,
        inbox=Inbox(),
    )


def _cause(error: httptools.HttpParserError) -> BoatloadError:
    """Return what is wrong with the bytes: what a callback of ours raised, or what the parser says."""
    cause = error.__context__
    if isinstance(cause, BoatloadError):
        return cause
    if cause is not None and not isinstance(cause, httptools.HttpParserError):
        log.error("unexpected error", exc_info=cause)
    return MalformedRequestError(f"This is no well-formed HTTP/1.1 request: {cause or error}.")

import asyncio
import json
import re

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from app.api.request_log import RequestLog
from tests.unit.conftest import quiet

MADE = re.compile(rb"[0-9a-f]{32}")


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 207, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"done"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("broken on purpose")


async def nothing() -> Message:
    raise AssertionError("no body is read here")


async def call(app: RequestLog, path: str = "/v1/batches", **headers: bytes) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    fields = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    await app({"type": "http", "method": "GET", "path": path, "headers": fields}, nothing, send)
    return sent


def request_id(sent: list[Message]) -> bytes:
    ids = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert len(ids) == 1
    return bytes(ids[0])


@pytest.mark.parametrize("given", [b"abc", b"A-1_b.c", b"x" * 64])
async def test_the_id_that_a_client_gave_comes_back(given: bytes) -> None:
    assert request_id(await call(RequestLog(answering), x_request_id=given)) == given


@pytest.mark.parametrize(
    "given", [b"", b"x" * 65, b"a b", b"a\r\nSet-Cookie: b=c", b"a\n", b"\xe9", b"\x1b[31m", b'"', b"a/b"]
)
async def test_an_id_unfit_for_a_log_or_a_header_is_replaced(given: bytes) -> None:
    assert MADE.fullmatch(request_id(await call(RequestLog(answering), x_request_id=given)))


async def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = [request_id(await call(RequestLog(answering))) for _ in range(2)]
    assert all(MADE.fullmatch(one) for one in ids)
    assert ids[0] != ids[1]


async def test_the_answer_is_otherwise_as_it_was() -> None:
    start, body = await call(RequestLog(answering))
    assert start["status"] == 207
    assert (b"x-own", b"1") in start["headers"]
    assert body == {"type": "http.response.body", "body": b"done"}


async def test_one_line_says_what_was_asked_and_answered() -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await call(RequestLog(answering), x_request_id=b"abc")
    assert len(lines) == 1
    seconds = lines[0].pop("seconds")
    assert 0 <= seconds < 10
    assert lines[0] == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "path": "/v1/batches",
        "status": 207,
        "request_id": "abc",
    }


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_not_logged(path: str) -> None:
    with capture_logs() as lines:
        await call(RequestLog(answering), path)
    assert not lines


async def test_a_request_that_fails_is_logged_and_answered_under_its_id() -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        sent = await call(RequestLog(failing), x_request_id=b"abc")
    assert [(line["event"], line["request_id"]) for line in lines] == [("unexpected error", "abc"), ("request", "abc")]
    assert (lines[0]["log_level"], lines[0]["exc_info"]) == ("error", True)
    assert lines[1]["status"] == sent[0]["status"] == 500
    assert request_id(sent) == b"abc"
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["type"] == "/problems/internal-error"
    assert b"on purpose" not in sent[1]["body"]


async def failing_late(scope: Scope, receive: Receive, send: Send) -> None:
    await answering(scope, receive, send)
    await failing(scope, receive, send)


async def test_an_answer_that_fails_on_its_way_is_left_to_the_server() -> None:
    with capture_logs() as lines, pytest.raises(RuntimeError, match="on purpose"):
        await call(RequestLog(failing_late))
    assert [line["status"] for line in lines] == [207]


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def endless_answer(scope: Scope, receive: Receive, send: Send) -> None:
    await answering(scope, receive, send)
    await asyncio.Event().wait()


async def test_a_request_that_the_stopping_server_cancels_is_answered_and_closed() -> None:
    with capture_logs() as lines:
        calling = asyncio.create_task(call(RequestLog(endless), x_request_id=b"abc"))
        await quiet()
        calling.cancel()
        start, body = await calling
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"connection"] == b"close"
    assert headers[b"x-request-id"] == b"abc"
    assert int(headers[b"retry-after"]) > 0
    assert json.loads(body["body"])["type"] == "/problems/stopping"
    assert [line["status"] for line in lines] == [503]


async def test_an_answer_that_had_begun_is_not_answered_again() -> None:
    calling = asyncio.create_task(call(RequestLog(endless_answer)))
    await quiet()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_what_is_no_request_passes_through() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    await RequestLog(app)({"type": "lifespan"}, nothing, send)
    assert seen == [{"type": "lifespan"}]

"""Structured logs: one event a line, JSON for machines, text for a terminal. Never a credential in any of them."""

import asyncio
import atexit
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, cast

import structlog
from pydantic_core import PydanticSerializationError, to_json

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""All that moves the cursor or turns the text, but for line ends and tabs."""


def configure(level: str, form: str) -> None:
    """Send our own and every library's logs to stderr, in one form. Once, at the start of a process.

    `form` is `console`, `json`, or `auto`: the first on a terminal, else the second. Our own lines are rendered and
    written directly; the way through the standard library, which those of others take, is five times as long, and there
    is a line for each request.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.typing.Processor] = (
        [_printable, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render, _as_text],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in ("python_multipart", "alembic", "pgqueuer", "asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, *render, _as_bytes],
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", Bursts(sys.stderr.buffer))),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


class Bursts:
    """What loggers see of a binary stream: `write` and `flush`.

    What one turn of an event loop logs is written at its end, at one go: line by line it took a tenth of the time of a
    small upload. What is logged elsewhere is written at once, with all that waits. A process that is killed loses the
    lines of its last turn.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Final = stream
        self._lines: list[bytes] = []
        atexit.register(self._write)

    def write(self, line: bytes) -> None:
        """Take a line."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write()
            return
        if len(self._lines) == 1:
            loop.call_soon(self._write)

    def flush(self) -> None:
        """Do nothing: no line waits for longer than it should."""

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write(b"".join(lines))
            self._stream.flush()


def _printable(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Show what a client wrote, and not do what it tells the terminal: a path may hold any character."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], value)
    return event


def _to_json(event: Any, default: Callable[[Any], Any]) -> bytes:  # noqa: ANN401 - whatever was logged
    try:
        return to_json(event, fallback=default)
    except (PydanticSerializationError, ValueError):  # bytes or a path that are no UTF-8: json escapes what it must
        return json.dumps(event, default=default).encode()


def _as_text(_logger: Any, _method: str, line: Any) -> str:  # noqa: ANN401 - rendered as either
    return line.decode() if isinstance(line, bytes) else str(line)


def _as_bytes(_logger: Any, _method: str, line: Any) -> bytes:  # noqa: ANN401 - rendered as either
    return line if isinstance(line, bytes) else str(line).encode(errors="backslashreplace")

"""What must hold of any multipart body, and where to begin looking for one of which it does not.

An input is a body, but for its first byte, which says into chunks of how many bytes it is cut. It must end in a refusal
that is in the table of problems, or be parsed whole: to what a reader finds in it who knows nothing of chunks. However
it is cut, it comes to the same.
"""

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Final

from app.api.problems import TABLE
from app.storage.base import Store
from tests.support.receiving import Outcome, message, part, take

BOUNDARY: Final = b"b"
MAX_BYTES: Final = 1 << 16
MAX_PARTS: Final = 20
REFUSALS: Final = frozenset({None, *(error.code for error in TABLE)})
DICTIONARY: Final = (
    *(b"--b", b"\r\n--b", b"\r\n--b\r\n", b"\r\n--b--", b"--", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b" ", b"\t", b"\0"),
    *(b"Content-Disposition: form-data; ", b'name="f"', b'; filename="a"', b"; filename*=UTF-8''a", b'name="batch_id"'),
    *(b"Content-Type: text/plain\r\n", b"Content-Transfer-Encoding: base64\r\n", b'\\"', b"%22", b";", b"=", b":"),
)
_DELIMITER: Final = re.compile(rb"\r\n--b(?:[ \t]*(\r\n)|--)")
SEEDS: Final = (
    message(part(b"content", filename="a"), boundary=BOUNDARY),
    message(part(b"one", name="batch_id"), part(b"x", filename="a/b.c"), part(b"", filename=""), boundary=BOUNDARY),
    message(part(b"x", filename="a", headers=b"Content-Type: text/plain\r\n"), boundary=BOUNDARY, end=b""),
    message(part(b"\r\n--c\r\n\r\n--", filename="a"), part(b"y", name="note"), boundary=BOUNDARY),
    message(part(b"--b--\r\n", filename="a"), part(b"\r\n", filename="b"), boundary=BOUNDARY),
    message(boundary=BOUNDARY),
)


def check(data: bytes, *, store: Store, hashers: Executor) -> Outcome:
    """Return what becomes of an input. Raises AssertionError where that is not what it must be."""
    size, body = max(1, data[0]), data[1:]
    cut = [body[start : start + size] for start in range(0, len(body), size)]
    outcome = _taken(cut, store, hashers)
    assert outcome == _taken([body], store, hashers)
    assert outcome.error in REFUSALS
    assert len(outcome.files) <= outcome.begun <= MAX_PARTS
    if outcome.error is None:
        parts = _parts(body)
        assert all(file.content is None or file.content in parts for file in outcome.files)
    return outcome


def _taken(chunks: list[bytes], store: Store, hashers: Executor) -> Outcome:
    return take(chunks, store=store, hashers=hashers, boundary=BOUNDARY, max_parts=MAX_PARTS, pack_file_bytes=MAX_BYTES)


def _parts(body: bytes) -> Iterator[bytes]:
    """Yield the content of each part, in order."""
    body = b"\r\n" + body.removeprefix(b"\r\n")
    delimiter = _DELIMITER.match(body)
    while delimiter and delimiter[1]:
        start = body.index(b"\r\n\r\n", delimiter.start(1)) + 4
        delimiter = _DELIMITER.search(body, start)
        assert delimiter
        yield body[start : delimiter.start()]

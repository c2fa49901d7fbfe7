"""What `python -m tests.fuzz.parser` looks for, with bodies that are always the same; and what each byte costs."""

import random
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from types import FrameType
from typing import Any

import pytest
from python_multipart import multipart as parser

from app.api import multipart as adapter
from app.storage.local import LocalStore
from tests.fuzz.multipart import BOUNDARY, DICTIONARY, SEEDS, check
from tests.support.receiving import message, part, take

KIB = 1 << 10


def mutated(chance: random.Random) -> bytes:
    """A seed with some of its pieces replaced, doubled, taken out, or with words put in."""
    body = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 6)):
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + chance.randint(0, 12))
        piece = chance.choice([chance.choice(DICTIONARY), bytes(body[start:end]) * 2, chance.randbytes(2), b""])
        body[start : chance.choice([start, end])] = piece
    return bytes([chance.randrange(256)]) + bytes(body)


def test_any_body_ends_in_a_documented_refusal_or_is_parsed_whole(shared_store: LocalStore, hashers: Executor) -> None:
    chance = random.Random(1)
    outcomes = [check(mutated(chance), store=shared_store, hashers=hashers) for _ in range(2000)]
    assert {outcome.error for outcome in outcomes} >= {None, "malformed-multipart", "truncated-multipart"}
    assert sum(outcome.error is None for outcome in outcomes) > 200


HARD: dict[str, Callable[[int], bytes]] = {
    "blanks behind boundaries": lambda size: (
        b"--b\r\n" + (part(filename="a") + b"\r\n--b" + b" " * 64 + b"\r\n") * (size // 150)
    ),
    "blanks before values": lambda size: whole(
        *[part(filename="a", headers=b"X:" + b" " * 4000 + b"y\r\n")] * (size // 4100)
    ),
    "boundaries that are none": lambda size: whole(part(b"\r\n--bx" * (size // 6), filename="a")),
    "beginnings of boundaries": lambda size: whole(part(b"\r\n--" * (size // 4), filename="a")),
    "carriage returns": lambda size: whole(part(b"\r" * size, filename="a")),
    "carriage returns in names": lambda size: whole(*[part(filename="\r" * 4000)] * (size // 4100)),
    "one large field": lambda size: whole(part(b"x" * size, name="note")),
    "small parts": lambda size: whole(*[part(b"", filename="a")] * (size // 70)),
    "long names": lambda size: whole(
        *[part(disposition=b'form-data; name="f"; filename="' + b'\\"' * 2000 + b'"')] * (size // 4100)
    ),
    "many parameters": lambda size: whole(
        *[part(disposition=b'form-data; name="f"' + b"".join(b"; a%d=b" % n for n in range(400)))] * (size // 4000)
    ),
}


def whole(*parts: bytes) -> bytes:
    return message(*parts, boundary=BOUNDARY)


def steps(body: bytes, chunk: int, store: LocalStore, hashers: Executor) -> int:
    """How many lines of the parser and of the adapter were run for a body. No clock: it is the same each time."""
    files = {parser.__file__, adapter.__file__}
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - as sys.settrace has it
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        return trace

    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    sys.settrace(trace)
    try:
        take(chunks, store=store, hashers=hashers, boundary=BOUNDARY, pack_file_bytes=1 << 20)
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("chunk", [97, 64 * KIB])
@pytest.mark.parametrize("name", HARD)
def test_twice_the_bytes_take_no_more_than_twice_the_steps(
    shared_store: LocalStore, hashers: Executor, name: str, chunk: int
) -> None:
    bodies = [HARD[name](size) for size in (16 * KIB, 32 * KIB)]
    a_byte, a_byte_of_twice = (steps(body, chunk, shared_store, hashers) / len(body) for body in bodies)
    assert a_byte_of_twice <= 1.1 * a_byte
    assert a_byte <= 15

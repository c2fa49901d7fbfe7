"""What comes out on stderr once the logs are configured, in a process of its own."""

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typing_extensions import Buffer

from app import logs

ROOT = Path(__file__).parents[2]
SCRIPT = r"""
import logging, os, sys, uuid
import structlog
from app import logs

logs.configure(sys.argv[1], sys.argv[2])
log = structlog.get_logger("boatload.test")
structlog.contextvars.bind_contextvars(request_id="abc")
log.debug("too fine")
log.info("plain", number=1, text="é", path=os.fsdecode(b"a\xff"), raw=b"\xff", nothing=None, other=object)
log.info("an id", identity=uuid.UUID(int=7), set={1})
try:
    raise ValueError("broken on purpose")
except ValueError as error:
    log.error("it broke", exc_info=error)
logging.getLogger("somebody.else").warning("theirs: %s", 5)
"""


def lines(level: str, form: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, level, form]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == ""
    return ran.stderr.splitlines()


def test_every_line_is_one_json_object_whatever_is_logged() -> None:
    plain, identity, broke, theirs = (json.loads(line) for line in lines("info", "json"))
    for line in (plain, identity, broke):
        assert line["logger"] == "boatload.test"
    for line in (plain, identity, broke, theirs):
        assert line["timestamp"].endswith("Z")
        assert line["request_id"] == "abc"
    assert (plain["event"], plain["level"], plain["number"], plain["text"]) == ("plain", "info", 1, "\u00e9")
    assert (plain["path"], plain["nothing"]) == ("a\udcff", None)
    assert identity["identity"] == "00000000-0000-0000-0000-000000000007"
    assert broke["level"] == "error"
    assert "ValueError: broken on purpose" in broke["exception"]
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("theirs: 5", "somebody.else", "warning")


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_is_below_the_level_is_left_out(form: str) -> None:
    assert any("too fine" in line for line in lines("debug", form))
    text = "\n".join(lines("error", form))
    assert "it broke" in text
    assert "plain" not in text
    assert "theirs" not in text


def test_people_get_text() -> None:
    text = "\n".join(lines("info", "console"))
    assert "plain" in text
    assert "theirs: 5" in text
    assert not text.startswith("{")


HOSTILE = r"""
import logging
import structlog
from app import logs

logs.configure("info", "console")
text = "/\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202egnp.exe\nfake"
structlog.get_logger("ours").info("request", path=text)
logging.getLogger("theirs").warning(text)
"""


def test_what_a_client_wrote_tells_a_terminal_nothing() -> None:
    command = [sys.executable, "-c", HOSTILE]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stderr.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)  # its own colours
    assert all(letter.isprintable() or letter == "\n" for letter in plain), plain
    assert plain.count("]0;owned") == 2


PROGRAM = """
import structlog
from app import logs
logs.configure("info", "{form}")
def broken(secret):
    raise ValueError("It broke.")
try:
    broken("whsec_" + "s3cret")
except ValueError:
    structlog.get_logger("x").exception("it happened")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(form: str) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{form}", form)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    assert "It broke." in said
    assert "whsec_s3cret" not in said


class Stream(io.BytesIO):
    """Remembers what it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Buffer) -> int:
        self.written.append(bytes(data))
        return super().write(data)


async def test_what_one_turn_logs_is_written_at_its_end() -> None:
    stream = Stream()
    bursts = logs.Bursts(stream)
    for turn in (b"1", b"2"):
        bursts.write(turn + b"a\n")
        bursts.write(turn + b"b\n")
        assert stream.written == [b"1a\n1b\n"][: turn == b"2"]
        await asyncio.sleep(0)
    assert stream.written == [b"1a\n1b\n", b"2a\n2b\n"]


async def test_a_thread_writes_at_once_and_in_order() -> None:
    stream = Stream()
    bursts = logs.Bursts(stream)
    bursts.write(b"before\n")
    thread = threading.Thread(target=bursts.write, args=(b"now\n",))
    thread.start()
    thread.join()
    assert stream.written == [b"before\nnow\n"]
    await asyncio.sleep(0)
    assert stream.written == [b"before\nnow\n"]


def test_the_last_lines_are_written_although_their_loop_has_ended() -> None:
    script = """
import asyncio, structlog
from app import logs

async def main():
    structlog.get_logger("last").info("the last word")
    raise SystemExit(3)

logs.configure("info", "json")
asyncio.run(main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 3
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()] == ["the last word"]

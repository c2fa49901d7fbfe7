"""`inspect`: what a file is, by its content."""

from functools import cache
from typing import BinaryIO, Final

from pure_magic_rs import MagicDb

from app.processing.processor import Facts, Result

HEAD_BYTES: Final = 64 * 1024
"""How much of a file is looked at."""


class Inspect:
    """Finds the media type of any file."""

    def wants(self, _facts: Facts) -> bool:
        """Look at each."""
        return True

    def process(self, _facts: Facts, file: BinaryIO) -> Result:
        """Look at the first bytes."""
        return Result(detected_type=detect_type(file.read(HEAD_BYTES)))


@cache
def _magic() -> MagicDb:
    return MagicDb()


def detect_type(head: bytes) -> str:
    """Return the media type that the first bytes of a file speak for.

    `application/x-empty` for no bytes, `application/octet-stream` where nothing is recognised. Pure, and made in Rust:
    any bytes are safe to give to it.
    """
    if not head:
        return "application/x-empty"
    try:
        return _magic().first_magic_buffer(head).mime_type
    except ValueError:
        return "application/octet-stream"

"""File names are labels: they are shown and stored, and never become a path here."""

import re
from typing import Final

from app.domain.errors import InvalidFilenameError
from app.domain.limits import MAX_FILENAME_BYTES

_USUAL: Final = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,254}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SEPARATOR: Final = re.compile(r"[\\/]")
_ABSOLUTE: Final = re.compile(r"[A-Za-z]:[\\/]|[\\/]")


def parse_filename(raw: bytes | None) -> str:
    """Return the name that a client sent, unchanged: up to 255 bytes of UTF-8, a plain relative path.

    Raises InvalidFilenameError: missing, empty, not UTF-8, too long, a control character (C0, DEL, C1), absolute, or
    a segment that is empty, `.` or `..`.
    """
    if raw and _USUAL.fullmatch(raw):
        return raw.decode("ascii")
    if not raw:
        raise InvalidFilenameError("The file has no name. Send a filename with each file part.")
    if len(raw) > MAX_FILENAME_BYTES:
        raise InvalidFilenameError(f"The file name is {len(raw)} bytes long; the most is {MAX_FILENAME_BYTES}.")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise InvalidFilenameError("The file name is not UTF-8.") from None
    if _CONTROL.search(name):
        raise InvalidFilenameError("The file name holds a control character.")
    if _ABSOLUTE.match(name):
        raise InvalidFilenameError("The file name is an absolute path. Send a relative one.")
    if any(segment in {"", ".", ".."} for segment in _SEPARATOR.split(name)):
        raise InvalidFilenameError("The file name has an empty, '.' or '..' segment. Send a plain relative path.")
    return name


def printable(raw: bytes | None) -> str:
    """Return something to show for a name that was refused: no control characters, at most 255 bytes, maybe empty."""
    shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", (raw or b"")[: MAX_FILENAME_BYTES * 2].decode(errors="replace"))
    return shown.encode()[:MAX_FILENAME_BYTES].decode(errors="ignore")

"""multipart/form-data (RFC 7578) as calls on a Reception, strictly.

python-multipart finds the boundaries; what it lets pass is refused here: a body that does not end, junk before or
behind the parts, parts without a name, doubled or extended file names, encodings.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from app.domain.errors import (
    FieldTooLargeError,
    MalformedMultipartError,
    NoFilesError,
    TooManyPartsError,
    TruncatedMultipartError,
    UnsupportedMediaTypeError,
)
from app.domain.limits import MAX_CONTENT_TYPE_BYTES, MAX_FIELD_BYTES
from app.ingest.receive import Reception

_MAX_BOUNDARY: Final = 70
_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 4096
_MAX_PADDING: Final = 64
_MUCH_PADDING: Final = re.compile(rb"[ \t]{%d}" % (_MAX_PADDING + 1))
_LINE_END: Final = re.compile(rb"[ \t]{0,%d}\r\n" % _MAX_PADDING)
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_IN_HEAD: Final = frozenset(
    {
        MultipartState.HEADER_FIELD_START,
        MultipartState.HEADER_FIELD,
        MultipartState.HEADER_VALUE_START,
        MultipartState.HEADER_VALUE,
    }
)
_USUAL: Final = re.compile(rb'form-data; name="([^"\\]*)"(?:; filename="([^"\\]*)")?')
_USUAL_HEAD: Final = re.compile(
    rb'Content-Disposition: form-data; name="[^"\\\r\n]{0,1000}"; filename="([^"\\\r\n]{0,1000})"\r\n'
    rb"(?:Content-Type: ([\x21-\x7e][\x20-\x7e]{0,1000})\r\n)?\r\n"
)
_NEAR_BYTES: Final = 32 * 1024
"""How far to look for the end of a part behind which small ones may follow."""
_KIND: Final = re.compile(rb"[ \t]*([^ \t;]*)")
_PARAMETER: Final = re.compile(rb'[ \t]*;[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;"]*)', re.DOTALL)
_PLAIN_ENCODINGS: Final = frozenset({b"7bit", b"8bit", b"binary"})
_MEDIA_TYPE: Final = re.compile(rb"[\x20-\x7e]+")


def boundary_of(content_type: str | None, content_encoding: str | None) -> bytes:
    """Return the boundary that the request's headers name.

    Raises UnsupportedMediaTypeError for anything but a plain multipart/form-data, MalformedMultipartError for a
    boundary that is missing, empty or over 70 characters (RFC 2046 §5.1.1).
    """
    if content_encoding and content_encoding.strip().lower() != "identity":
        raise UnsupportedMediaTypeError("Send the body as it is, without Content-Encoding.")
    media_type, parameters = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaTypeError("Send the files as multipart/form-data.")
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise MalformedMultipartError("The Content-Type has no boundary of 1 to 70 characters.")
    return boundary


class _Parser(MultipartParser):
    """The parser of python-multipart, with a shorter way to the callbacks: a part takes a dozen of them.

    A CR that no LF follows ends no line of a head (RFC 9112 §2.2). It comes out as a LF, which is refused like a CR: in
    a file name, and outside of quotes.
    """

    def __init__(self, boundary: bytes, calls: "dict[str, Callable[..., None]]") -> None:
        super().__init__(boundary, max_header_count=_MAX_HEADERS, max_header_size=_MAX_HEADER_BYTES)
        self._calls: Final = calls
        self._held = b""

    def write(self, data: bytes) -> int:
        """Take the next bytes, in which no head begins but with the first. Returns how many were passed on."""
        data, self._held = self._held + data, b""
        # A CR where a line begins ends the head, or is refused.
        if self.state in _IN_HEAD and not (self.state is MultipartState.HEADER_FIELD_START and data[:1] == b"\r"):
            end = data.find(b"\r\n\r\n")
            if end < 0:
                end = len(data.removesuffix(b"\r"))
                data, self._held = data[:end], data[end:]
            if _BARE_CR.search(data, 0, end):
                data = _BARE_CR.sub(b"\n", data[:end]) + data[end:]
        return super().write(data)

    def callback(self, name: str, data: bytes | None = None, start: int | None = None, end: int | None = None) -> None:
        """Call what belongs to `name`; nothing for no bytes, nor where nothing belongs to it."""
        call = self._calls.get(name)
        if call is None:
            return
        if data is None:
            call()
        elif start != end:
            call(data, start, end)


class MultipartBody:
    """One body. `feed` its bytes in order, then `finish`. Blocks in what the reception does."""

    def __init__(self, boundary: bytes, reception: Reception, *, max_parts: int) -> None:
        self._reception: Final = reception
        self._max_parts: Final = max_parts
        self._opening: Final = b"--" + boundary
        self._delimiter: Final = b"\r\n--" + boundary
        self._tail_bytes: Final = len(self._delimiter) + 2 + _MAX_PADDING
        self._head = b""
        self._tail = b"\r\n"
        """The bytes before, with the line break that the first boundary may go without."""
        self._ended = False
        self._epilogue = b""
        self._parts = 0
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: tuple[str, bytearray] | None = None
        self._parser: Final = _Parser(
            boundary,
            {
                "part_begin": self._part_begin,
                "header_field": self._header_field,
                "header_value": self._header_value,
                "header_end": self._header_end,
                "headers_finished": self._headers_finished,
                "part_data": self._part_data,
                "part_end": self._part_end,
                "end": self._end,
            },
        )

    def can_wait(self, data: bytes) -> bool:
        """Say whether the next bytes complete nothing: a part goes on, and its delimiter would begin with a CR."""
        parser = self._parser
        return parser.state is MultipartState.PART_DATA and not parser.index and b"\r" not in data

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises whatever is wrong with them; nothing may be fed after that."""
        start = 0
        while start < len(data):
            # The library takes longer over a head and its delimiter than all else takes over a small file.
            if self._parser.state is MultipartState.HEADER_FIELD_START and not self._headers:
                start = self._take_whole(data, start)
                self._tail = b""
            line = data.find(self._delimiter + b"\r\n", start, start + _NEAR_BYTES)
            end = line + len(self._delimiter) + 2 if line >= 0 else len(data)
            self._parse(data[start:end])
            start = end

    def _take_whole(self, data: bytes, start: int) -> int:
        """Take the files that are there to the end of their delimiter, and whose heads are as clients write them.

        `start` is behind a delimiter, as the parser is, and so is what this returns: the parser never sees what is
        between them, and could not tell.
        """
        while head := _USUAL_HEAD.match(data, start):
            end = data.find(self._delimiter, head.end())
            after = end + len(self._delimiter)
            if end < 0 or not data.startswith(b"\r\n", after):
                break
            self._reception.begin_file(head[1], media_type(head[2]))
            if end > head.end():
                self._reception.add(data[head.end() : end])
            self._reception.end_file()
            self._part_begin()
            start = after + 2
        return start

    def _parse(self, data: bytes) -> None:
        if self._ended:
            self._pass_over(data)
            return
        if len(self._head) < len(self._opening) + 2:
            self._check_opening(data)
        start = 0
        for end, is_padded in self._stops(data):
            try:
                self._parser.write(data[start:end])
            except FormParserError as error:
                raise MalformedMultipartError(f"The body is not well-formed multipart: {error}.") from error
            start = end
            if self._ended:
                self._pass_over(data[end:])
                return
            if is_padded:
                raise MalformedMultipartError(f"There are over {_MAX_PADDING} blanks behind a boundary.")
        self._tail = (self._tail + data[-self._tail_bytes :])[-self._tail_bytes :]

    def finish(self) -> None:
        """End. Raises TruncatedMultipartError without a closing boundary, NoFilesError for no body at all."""
        if not self._head:
            raise NoFilesError("The body is empty.")
        if not self._ended:
            raise TruncatedMultipartError(
                "The body ends before its closing boundary. Send again what is not among the results."
            )

    def _check_opening(self, data: bytes) -> None:
        """Refuse a preamble: RFC 2046 allows one, no client sends one, and smugglers love it."""
        self._head = (self._head + data)[: len(self._opening) + 2]
        start = self._head.removeprefix(b"\r\n") if self._head != b"\r" else b""
        if not self._opening.startswith(start[: len(self._opening)]):
            raise MalformedMultipartError("The body does not begin with the boundary that its Content-Type names.")

    def _stops(self, data: bytes) -> list[tuple[int, bool]]:
        """Return how far to go in `data` and then look.

        That is where what may be the closing boundary ends, where a head may begin, and (True) where much padding
        behind a boundary begins. Only the parser knows whether it is the closing one: it may be the beginning of a
        file. It does not say where it was. RFC 2046 §5.1.1 allows any padding, no client sends some, and the parser
        goes through it byte by byte.
        """
        stops = {(len(data), False)}
        for window, start in ((self._tail + data[: self._tail_bytes], -len(self._tail)), (data, 0)):
            at = window.find(self._delimiter)
            while at >= 0:
                behind = at + len(self._delimiter)
                if window.startswith(b"--", behind):
                    stops.add((start + behind + 2, False))
                elif line := _LINE_END.match(window, behind):
                    stops.add((start + line.end(), False))
                elif _MUCH_PADDING.match(window, behind):
                    stops.add((max(0, start + behind), True))
                at = window.find(self._delimiter, behind)
        return sorted(stop for stop in stops if stop[0] > 0 or stop[1])

    def _pass_over(self, data: bytes) -> None:
        self._epilogue = (self._epilogue + data)[:3]
        if not b"\r\n".startswith(self._epilogue):
            raise MalformedMultipartError("There are bytes behind the closing boundary.")

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise TooManyPartsError(f"The body has more than {self._max_parts} parts.", max_parts=self._max_parts)
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._name.lower()
        if name in self._headers:
            raise MalformedMultipartError("A part has the same header twice.")
        self._headers[name] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        headers = self._headers
        encoding = headers.get(b"content-transfer-encoding")
        if encoding is not None and encoding.strip().lower() not in _PLAIN_ENCODINGS:
            raise UnsupportedMediaTypeError(
                "A part is encoded. Send files as they are; RFC 7578 §4.7 wants no encoding."
            )
        name, filename = _disposition(headers.get(b"content-disposition", b""))
        content_type = headers.get(b"content-type")
        if filename is None and (content_type is None or content_type.lstrip().lower().startswith(b"text/plain")):
            self._field = (name, bytearray())
        else:
            self._reception.begin_file(filename, media_type(content_type))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._field is None:
            self._reception.add(piece)
            return
        value = self._field[1]
        value += piece
        if len(value) > MAX_FIELD_BYTES:
            raise FieldTooLargeError(f"A text field is over {MAX_FIELD_BYTES} bytes.", max_field_bytes=MAX_FIELD_BYTES)

    def _part_end(self) -> None:
        if self._field is None:
            self._reception.end_file()
            return
        name, value = self._field
        self._field = None
        self._reception.add_field(name, value.decode(errors="replace"))

    def _end(self) -> None:
        self._ended = True


def _disposition(value: bytes) -> tuple[str, bytes | None]:
    """Return the name and the filename of a Content-Disposition; the filename None where it has none."""
    usual = _USUAL.fullmatch(value)
    if usual:
        return usual[1].decode(errors="replace"), usual[2]
    kind = _KIND.match(value)
    assert kind is not None
    parameters: dict[bytes, bytes] = {}
    position = kind.end()
    while match := _PARAMETER.match(value, position):
        name, raw = match[1].lower(), match[2]
        if name in parameters:
            break
        position = match.end()
        parameters[name] = raw[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\") if raw[:1] == b'"' else raw
    if kind[1].lower() != b"form-data" or b"name" not in parameters or value[position:].strip(b" \t;"):
        raise MalformedMultipartError("A part has no Content-Disposition: form-data with one name.")
    filename = parameters.get(b"filename")
    if filename is None and b"filename*" in parameters:
        raise MalformedMultipartError("A part has only filename*, which RFC 7578 §4.2 forbids. Send filename.")
    return parameters[b"name"].decode(errors="replace"), filename


@lru_cache(maxsize=256)
def media_type(value: bytes | None) -> str | None:
    """Return a Content-Type that is fit to be shown, else None."""
    value = value.strip() if value else b""
    if len(value) > MAX_CONTENT_TYPE_BYTES or not _MEDIA_TYPE.fullmatch(value):
        return None
    return value.decode("ascii")

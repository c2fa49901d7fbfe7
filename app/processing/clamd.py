"""Virus scanning by clamd(8), which is sent the bytes (INSTREAM): it may run on another machine."""

import re
import socket
from typing import BinaryIO, Final

from app.domain.processing_errors import InfectedError
from app.processing.processor import Facts, FinalError, PassingError, Result

_CHUNK_BYTES: Final = 256 * 1024
_ANSWER_BYTES: Final = 4096
_FOUND: Final = re.compile(r"stream: (.{1,200}) FOUND")


class Clamd:
    """Has each file looked at by clamd. `address` is `host:port` or the path of its socket."""

    def __init__(self, address: str, *, seconds: float) -> None:
        self._address: Final = address
        self._seconds: Final = seconds

    def wants(self, _facts: Facts) -> bool:
        """Look at each."""
        return True

    def process(self, _facts: Facts, file: BinaryIO) -> Result:
        """Say that it is clean.

        Raises FinalError: `infected`, `unscannable` (more bytes than clamd takes); PassingError: `scanner-unavailable`.
        """
        try:
            said = self._ask(file)
        except OSError as error:
            raise _unavailable(str(error) or type(error).__name__) from error
        if said == "stream: OK":
            return Result(metadata={"clean": True})
        if found := _FOUND.fullmatch(said):
            detail = f"The virus scanner found {found[1]}. The bytes are not handed out."
            raise FinalError(InfectedError.code, detail, metadata={"clean": False, "signature": found[1]})
        if said.startswith("INSTREAM size limit exceeded"):
            raise FinalError("unscannable", "The file is larger than the virus scanner takes (StreamMaxLength).")
        raise _unavailable(f"it said {said[:200]!r}")

    def _ask(self, file: BinaryIO) -> str:
        """Return clamd's answer. Raises OSError."""
        with self._connect() as connection:
            try:
                connection.sendall(b"zINSTREAM\0")
                while chunk := file.read(_CHUNK_BYTES):
                    connection.sendall(len(chunk).to_bytes(4) + chunk)
                connection.sendall(bytes(4))
            except ConnectionError:
                pass  # where it takes no more, it may have said why
            answer = b""
            while not answer.endswith(b"\0") and len(answer) < _ANSWER_BYTES:
                piece = connection.recv(_ANSWER_BYTES)
                if not piece:
                    raise ConnectionError("it hung up without an answer")
                answer += piece
        return answer.rstrip(b"\0\n").decode(errors="replace")

    def _connect(self) -> socket.socket:
        if not self._address.startswith("/"):
            host, _, port = self._address.rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), timeout=self._seconds)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(self._seconds)
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return connection


def _unavailable(reason: str) -> PassingError:
    return PassingError("scanner-unavailable", f"The virus scanner cannot be asked: {reason}.")

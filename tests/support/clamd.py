"""A small clamd: PING and INSTREAM over a real socket, with the EICAR string for a virus, and its bad days."""

import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

EICAR: Final = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SIGNATURE: Final = "Eicar-Test-Signature"


class Clamd:
    """What it has been asked, and how it behaves; both may be changed while it runs."""

    def __init__(self, *, max_bytes: int = 100 << 20) -> None:
        self.max_bytes = max_bytes
        self.cut_after: int | None = None
        """It hangs up when it was sent so many bytes."""
        self.slow_seconds = 0.0
        """It takes so long over each file."""
        self.says: bytes | None = None
        """It gives this answer to any file."""
        self.scanned: list[int] = []
        """How many bytes each file had."""
        self.address = ""

    def scan(self, content: bytes) -> bytes:
        self.scanned.append(len(content))
        time.sleep(self.slow_seconds)
        return self.says or (f"stream: {SIGNATURE} FOUND".encode() if EICAR in content else b"stream: OK")


class _Handler(socketserver.StreamRequestHandler):
    """One connection, one command, as clamd without IDSESSION."""

    server: "_Server"

    def handle(self) -> None:
        command = bytearray()
        while not command.endswith(b"\0"):
            command += self.rfile.read(1) or b"\0"
        if command == b"zPING\0":
            self.wfile.write(b"PONG\0")
        elif command == b"zINSTREAM\0":
            self.wfile.write(self._stream(self.server.clamd))
        else:
            self.wfile.write(b"UNKNOWN COMMAND\0")

    def _stream(self, clamd: Clamd) -> bytes:
        content = bytearray()
        while size := int.from_bytes(self.rfile.read(4)):
            if len(content) + size > clamd.max_bytes:
                return b"INSTREAM size limit exceeded. ERROR\0"
            content += self.rfile.read(size)
            if clamd.cut_after is not None and len(content) >= clamd.cut_after:
                return b""
        return clamd.scan(bytes(content)) + b"\0"


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True
    allow_reuse_address = True
    clamd: Clamd

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing where a client has hung up; a fault of our own is raised."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Tcp(_Server, socketserver.TCPServer):
    pass


class _Unix(_Server, socketserver.UnixStreamServer):
    pass


@contextmanager
def running(clamd: Clamd, path: Path | None = None, port: int = 0) -> Iterator[Clamd]:
    """Let it listen on a socket at `path`, or on a port of loopback."""
    with _Unix(str(path), _Handler) if path else _Tcp(("127.0.0.1", port), _Handler) as server:
        server.clamd = clamd
        clamd.address = str(path) if path else "{}:{}".format(*server.server_address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield clamd
        finally:
            server.shutdown()
            thread.join()

"""What is measured: a workload prepares a round's input outside the clock, a job puts that input to each server."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from client import WrongAnswerError, get_json, get_sha256, multipart, post
from contenders import Receipt
from databases import count_uploads
from memory import MemoryMeter
from servers import Server

POST_SECONDS: Final = 180.0
PROCESS_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.02
READ_BACK_FILES: Final = 8


@dataclass(frozen=True, slots=True)
class Measurement:
    """One job on one server. `processing_seconds`: from the answer to the batch's end, None where they are one."""

    seconds: float
    processing_seconds: float | None
    peak_bytes: int


class Job(Protocol):
    """One round's input."""

    def run(self, server: Server) -> Measurement:
        """Put it to one server, check what came of it. Raises WrongAnswerError."""


class Workload(Protocol):
    """A kind of job."""

    @property
    def name(self) -> str:
        """Return what `--only` calls it."""

    @property
    def title(self) -> str:
        """Return the heading of its table."""

    @property
    def amount(self) -> float:
        """Return how much one job is."""

    @property
    def unit(self) -> str:
        """Return what `amount` counts."""

    @property
    def disk_bytes(self) -> int:
        """Return what one job on one server leaves on the disk."""

    def seats(self, servers: Sequence[Server]) -> list[Server]:
        """Return which of the servers it is put to, the first one to be compared with the others."""

    def prepare(self) -> Job:
        """Make the input of a new round: content that was never sent before."""


@dataclass(frozen=True, slots=True)
class Upload:
    """`file_count` files of `file_bytes` in one multipart request. Many are counted in files, a big one in bytes."""

    name: str
    title: str
    file_count: int
    file_bytes: int

    @property
    def amount(self) -> float:
        """Return files, or megabytes when it is one file."""
        return self.file_count if self.file_count > 1 else self.file_bytes / 1e6

    @property
    def unit(self) -> str:
        """Return what `amount` counts."""
        return "files" if self.file_count > 1 else "MB"

    @property
    def disk_bytes(self) -> int:
        """Return the bytes of all files."""
        return self.file_count * self.file_bytes

    def seats(self, servers: Sequence[Server]) -> list[Server]:
        """Return them all."""
        return list(servers)

    def prepare(self) -> "UploadJob":
        """Make random files."""
        return UploadJob([os.urandom(self.file_bytes) for _ in range(self.file_count)])


class UploadJob:
    """One multipart request, its body laid out and its digests known beforehand."""

    def __init__(self, contents: list[bytes]) -> None:
        files = [(f"file-{number:05}.bin", content) for number, content in enumerate(contents)]
        self._body = multipart(files, field="files", boundary=f"boatload-{os.urandom(16).hex()}")
        self._expected = [(len(content), hashlib.sha256(content).hexdigest()) for content in contents]

    def run(self, server: Server) -> Measurement:
        """Send it, wait until it is processed, then read some files back and count the rows."""
        contender, seat = server.contender, server.seat
        rows_before = count_uploads(seat.dsn)
        os.sync()  # what the last job left to be written is not this one's cost
        with MemoryMeter(server.pid) as meter:
            answer = post(seat.port, contender.upload_path, self._body, timeout_seconds=POST_SECONDS)
            receipt = contender.receipt(answer)
            batch_path = contender.batch_path(receipt.batch_id)
            processing_seconds = wait_until_completed(seat.port, batch_path) if batch_path else None
        self._check(server, receipt)
        if (rows := count_uploads(seat.dsn) - rows_before) != len(self._expected):
            raise WrongAnswerError(f"{rows} rows were added for {len(self._expected)} files")
        return Measurement(answer.seconds, processing_seconds, meter.peak_bytes)

    def _check(self, server: Server, receipt: Receipt) -> None:
        """Compare every size and digest answered, and the bytes of some files, the first and last among them."""
        if len(receipt.files) != len(self._expected):
            raise WrongAnswerError(f"{len(receipt.files)} files were answered, {len(self._expected)} sent")
        for stored, (size_bytes, sha256) in zip(receipt.files, self._expected, strict=True):
            if stored.size_bytes != size_bytes or stored.sha256 not in {None, sha256}:
                raise WrongAnswerError(f"{stored} is not the {size_bytes} bytes {sha256}")
        last = len(self._expected) - 1
        for index in sorted({last * step // (READ_BACK_FILES - 1) for step in range(READ_BACK_FILES)}):
            path = server.contender.content_path(receipt.files[index].upload_id)
            found = get_sha256(server.seat.port, path, timeout_seconds=POST_SECONDS)
            if found != self._expected[index][1]:
                raise WrongAnswerError(f"{path} sends back {found} instead of {self._expected[index][1]}")


def wait_until_completed(port: int, batch_path: str) -> float:
    """Poll until the batch is completed; return the seconds that took. Raises WrongAnswerError."""
    started = time.perf_counter()
    while (batch := get_json(port, batch_path, timeout_seconds=10))["status"] != "completed":
        if batch["status"] in {"failed", "cancelled"} or time.perf_counter() - started > PROCESS_SECONDS:
            raise WrongAnswerError(f"the batch is not completed: {batch}")
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - started

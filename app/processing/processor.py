"""What a processor is: the interface for those who write one. docs/processors.md says how to install it.

A processor is found by an entry point of the group `boatload.processors`. The entry point's name is the processor's
name; what it points to is called once, without arguments, in each child process, and returns the processor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file when a processor's turn comes."""

    upload_id: UUID
    filename: str
    """As the client gave it: a relative path, to be trusted as little as its content."""
    declared_type: str | None
    """The Content-Type that the client gave, unchecked."""
    size_bytes: int
    sha256: str
    """64 hex digits."""
    attempt: int
    """1 for the first."""
    detected_type: str | None = None
    """What an earlier processor found it to be."""
    width: int | None = None
    height: int | None = None
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What earlier processors returned, by their names."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a processor found. What it leaves out stays as an earlier processor found it."""

    detected_type: str | None = None
    """A media type, printable ASCII, at most 255 characters."""
    width: int | None = None
    """In pixels, as it is shown upright; 1 to 2^31 - 1."""
    height: int | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    """JSON, at most 16 KiB of it for all processors together; kept under the processor's name."""
    thumbnail: bytes | None = None
    """A WebP image of at most 1 MiB."""


class ProcessingError(Exception):
    """Base of the two errors that a processor may raise.

    `code` is a slug that names the kind for ever, like `archive-encrypted`; `detail` is one sentence for people,
    `metadata` what is kept for programs, as that of a `Result`.
    """

    def __init__(self, code: str, detail: str, metadata: Mapping[str, object] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.metadata = metadata or {}


class FinalError(ProcessingError):
    """The file is at fault: another attempt would end the same. The upload fails at once."""


class PassingError(ProcessingError):
    """Something else is at fault, and may be mended: the upload is tried again, as often as any is."""


class Processor(Protocol):
    """Looks into one file at a time, in a child process whose memory and time are limited.

    It may crash: only the file that it was working on is blamed. What it prints goes to the log. Any other exception
    than the two above counts as passing.
    """

    def wants(self, facts: Facts) -> bool:
        """Say by the facts alone whether the file is worth a look. Whoever does not want it costs nothing."""

    def process(self, facts: Facts, file: BinaryIO) -> Result:
        """Look into `file`, which is readable and seekable, at its beginning, and closed by others.

        It is no file of the system: it has no path and no descriptor. Its bytes may come over a network, so read no
        more than needed. Raises FinalError or PassingError.
        """

"""Who takes part: how each is started, where it takes files, and how its answer is read."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from client import Answer, WrongAnswerError

PEERS: Final = Path(__file__).parent / "peers"
CREATED: Final = 201


@dataclass(frozen=True, slots=True)
class Seat:
    """What a contender is given: a free port, an empty database and an empty folder of its own."""

    port: int
    dsn: str
    folder: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Return this process's environment without Boatload's settings, with temporary files on the measured disk."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BOATLOAD_")}
        return inherited | {"TMPDIR": str(self.folder)} | variables


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as a server's answer has it; `sha256` is None where the server does not hash."""

    upload_id: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A server's answer to one request, `files` in the order sent."""

    batch_id: str
    files: tuple[StoredFile, ...]


class Contender(Protocol):
    """One server to be measured. Its `name` is also that of its folder, and part of its database's."""

    @property
    def name(self) -> str:
        """Return what `--servers` calls it."""

    @property
    def title(self) -> str:
        """Return what the report calls it."""

    @property
    def ready_path(self) -> str:
        """Return what answers 200 to a GET once it is ready."""

    @property
    def upload_path(self) -> str:
        """Return where a multipart POST stores files."""

    def preparations(self) -> list[list[str]]:
        """Return the commands to run to their end before the start."""

    def command(self, seat: Seat) -> list[str]:
        """Return the command that serves until SIGTERM."""

    def environment(self, seat: Seat) -> dict[str, str]:
        """Return the environment of all these commands."""

    def receipt(self, answer: Answer) -> Receipt:
        """Read the answer to an upload. Raises WrongAnswerError unless every file was taken."""

    def content_path(self, upload_id: str) -> str:
        """Return where a GET sends the bytes back."""

    def batch_path(self, batch_id: str) -> str | None:
        """Return where to poll until the batch is `completed`, or None when the answer was the end of it."""


class Boatload:
    """The service itself, with its defaults, on the database it is given."""

    name = "boatload"
    title = "Boatload"
    ready_path = "/readyz"
    upload_path = "/v1/uploads"

    def preparations(self) -> list[list[str]]:
        """Return the migration."""
        return [[_executable("boatload"), "migrate", "up"]]

    def command(self, seat: Seat) -> list[str]:  # noqa: ARG002  # all it needs is in the environment
        """Return `boatload serve`: one process, the worker inside."""
        return [_executable("boatload"), "serve"]

    def environment(self, seat: Seat) -> dict[str, str]:
        """Return the settings that name the seat."""
        return seat.environment(
            BOATLOAD_PORT=str(seat.port), BOATLOAD_DATA_DIR=str(seat.folder), BOATLOAD_DATABASE_URL=seat.dsn
        )

    def receipt(self, answer: Answer) -> Receipt:
        """Read a multipart answer; anything but `stored` is wrong, since no content is sent twice."""
        document = _created(answer)
        for result in document["results"]:
            if result["status"] != "stored":
                raise WrongAnswerError(f"a file was not stored: {result}")
        uploads = [result["upload"] for result in document["results"]]
        files = (StoredFile(upload["id"], upload["size_bytes"], upload["sha256"]) for upload in uploads)
        return Receipt(document["batch"]["id"], tuple(files))

    def content_path(self, upload_id: str) -> str:
        """Return the content route."""
        return f"/v1/uploads/{upload_id}/content"

    def batch_path(self, batch_id: str) -> str | None:
        """Return the batch route: files are processed after the answer."""
        return f"/v1/batches/{batch_id}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One module of `peers/`: an ASGI application under uvicorn with httptools and uvloop, one process."""

    name: str
    title: str
    module: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Its environment beyond the seat."""
    ready_path: str = "/ready"
    upload_path: str = "/uploads"

    def preparations(self) -> list[list[str]]:
        """Return nothing: a peer makes its own tables."""
        return []

    def command(self, seat: Seat) -> list[str]:
        """Return the uvicorn command, as an operator would write it, without the access log."""
        return [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), f"{self.module}:app"),
            *("--host", "127.0.0.1", "--port", str(seat.port)),
            *("--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"),
        ]

    def environment(self, seat: Seat) -> dict[str, str]:
        """Return the seat in the peers' variables."""
        return seat.environment(PEER_DATABASE_URL=seat.dsn, PEER_DIR=str(seat.folder), **self.variables)

    def receipt(self, answer: Answer) -> Receipt:
        """Read a peer's answer."""
        document = _created(answer)
        files = (StoredFile(file["id"], file["size_bytes"], file.get("sha256")) for file in document["files"])
        return Receipt(document["batch_id"], tuple(files))

    def content_path(self, upload_id: str) -> str:
        """Return the content route."""
        return f"{self.upload_path}/{upload_id}/content"

    def batch_path(self, batch_id: str) -> str | None:  # noqa: ARG002  # there is nothing to poll
        """Return None: a peer does nothing after its answer."""
        return None


CONTENDERS: Final[tuple[Contender, ...]] = (
    Boatload(),
    Peer("uploadfile", "FastAPI `UploadFile`, hashed and synced", "uploadfile"),
    Peer("overlapped", "the same, eight files at once", "uploadfile", {"PEER_FILES_AT_ONCE": "8"}),
    Peer("naive", "FastAPI, read whole, neither hashed nor synced", "naive"),
)


def _executable(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _created(answer: Answer) -> dict[str, Any]:
    if answer.status != CREATED:
        raise WrongAnswerError(f"status {answer.status} instead of {CREATED}: {answer.body[:500]!r}")
    document: dict[str, Any] = json.loads(answer.body)
    return document

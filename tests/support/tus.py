"""A tus 1.0.0 client of a few lines, that says exactly what a test wants said."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final
from zlib import crc32

import httpx

from tests.support.wire import Json, problem

ENDPOINT: Final = "/v1/tus"
VERSION: Final = {"tus-resumable": "1.0.0"}
BODY: Final = {"content-type": "application/offset+octet-stream"}
MAX_FILE_BYTES: Final = 100_000
ORIGIN: Final = "https://app.example.org"
"""How the server `behind_proxy` is set up."""
Content = bytes | Iterable[bytes]


def metadata(**values: str | bytes) -> str:
    """The value of `Upload-Metadata`."""
    return ",".join(f"{key} {encoded(value)}".rstrip() for key, value in values.items())


def encoded(value: str | bytes) -> str:
    return base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()


def checksum(algorithm: str, data: bytes) -> str:
    """The value of `Upload-Checksum`."""
    if algorithm == "crc32":
        return f"crc32 {encoded(crc32(data).to_bytes(4))}"
    return f"{algorithm} {encoded(hashlib.new(algorithm, data).digest())}"


def fields(**named: object) -> dict[str, str]:
    """Header fields; underscores in names become dashes, and what is None is left out."""
    by_name = {name.replace("_", "-"): value for name, value in named.items()}
    return {name: str(value) for name, value in by_name.items() if value is not None}


class Tus:
    """Every answer is checked to say `Tus-Resumable`; nothing else is."""

    def __init__(self, client: httpx.Client) -> None:
        self.client: Final = client

    def request(self, method: str, url: str, content: Content | None = None, **headers: object) -> httpx.Response:
        """Ask with `Tus-Resumable: 1.0.0` unless `headers` say otherwise."""
        answer = self.client.request(method, url, content=content, headers=VERSION | fields(**headers))
        assert answer.headers["tus-resumable"] == "1.0.0", answer.headers
        return answer

    def post(self, content: Content | None = None, **headers: object) -> httpx.Response:
        """Ask for an upload; one with `content` carries its type."""
        given = (BODY if content is not None else {}) | headers
        return self.request("POST", ENDPOINT, content, **given)

    def create(self, length: int | None = None, *, batch: str | None = None, **headers: object) -> str:
        """Make an upload, of deferred length without `length`, and return its URL."""
        if length is None and not str(headers.get("upload_concat", "")).startswith("final"):
            headers.setdefault("upload_defer_length", 1)
        if batch:
            headers.setdefault("upload_metadata", metadata(batch_id=batch))
        answer = self.post(upload_length=length, **headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    def stored(self, data: bytes, **headers: object) -> str:
        """Make an upload that holds `data`, and return its URL."""
        url = self.create(len(data), **headers)
        assert not data or self.patch(url, 0, data).status_code == 204
        return url

    def patch(self, url: str, offset: object, content: Content, **headers: object) -> httpx.Response:
        return self.request("PATCH", url, content, **(BODY | {"upload_offset": offset} | headers))

    def head(self, url: str, **headers: object) -> httpx.Response:
        return self.request("HEAD", url, **headers)

    def delete(self, url: str, **headers: object) -> httpx.Response:
        return self.request("DELETE", url, **headers)

    def offset(self, url: str) -> int:
        answer = self.head(url)
        assert answer.status_code == 200, answer.headers
        return int(answer.headers["upload-offset"])

    def open_batch(self, **new: object) -> Json:
        answer = self.client.post("/v1/batches", json=new)
        assert answer.status_code == 201, answer.text
        batch: Json = answer.json()
        return batch

    def batch(self, url: str) -> Json:
        answer = self.client.get(url)
        assert answer.status_code == 200, answer.text
        batch: Json = answer.json()
        return batch

    def upload(self, url: str) -> Json:
        """The upload behind a tus URL, as the rest of the API shows it."""
        answer = self.client.get(f"/v1/uploads/{identity(url)}")
        assert answer.status_code == 200, answer.text
        upload: Json = answer.json()
        return upload

    def batch_of(self, url: str) -> Json:
        return self.batch(f"/v1/batches/{self.upload(url)['batch_id']}")

    def content(self, url: str) -> bytes:
        answer = self.client.get(f"/v1/uploads/{identity(url)}/content")
        assert answer.status_code == 200, answer.text
        return answer.content


def identity(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def refused(answer: httpx.Response, status: int, slug: str) -> Json:
    """The problem of a tus answer, which has the headers of one beside it."""
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert "upload-offset" not in answer.headers or status in {409, 460}
    return problem(answer, status, slug)


def states(batch: Mapping[str, object]) -> dict[str, object]:
    """The counts of a batch that are not 0."""
    names = ("total", "receiving", "pending", "processing", "processed", "successful", "failed", "cancelled")
    return {name: count for name in names if (count := batch[f"{name}_uploads"])}

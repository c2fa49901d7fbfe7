"""Things of one owner, and every request of the OpenAPI document that could be about them."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from uuid import uuid4

import httpx

from tests.support.images import picture, stored
from tests.support.server import ROOT
from tests.support.tus import BODY, VERSION, metadata
from tests.support.wire import FORM, File, Json, multipart

DOCUMENT: Final[Json] = json.loads((ROOT / "openapi.json").read_text())
DATA: Final = b"four"
FILE: Final = "a/ref.txt"
"""A path that the open batch has a declared file under."""
_DIGEST: Final = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
_SHA1: Final = base64.b64encode(hashlib.sha1(DATA, usedforsecurity=False).digest()).decode()
_NAMED: Final = re.compile(r"\{(\w+)\}")
_HEADERS: Final = {
    "idempotency-key": lambda: str(uuid4()),
    "if-none-match": lambda: "*",
    "prefer": lambda: "wait=1",
    "last-event-id": lambda: "0",
    "repr-digest": lambda: f"sha-256=:{_DIGEST}:",
    "content-digest": lambda: f"sha-256=:{_DIGEST}:",
    "want-repr-digest": lambda: "sha-256=1",
    "upload-offset": lambda: "0",
    "upload-length": lambda: str(len(DATA)),
    "upload-checksum": lambda: f"sha1 {_SHA1}",
    "tus-resumable": lambda: "1.0.0",
}
_QUERY: Final = {
    "status": "failed",
    "changed_since": "0",
    "limit": "1",
    "last_event_id": "0",
    ("add_uploads", "ref"): "filename",
    ("follow_batch", "uploads"): "true",
    ("delete_batch", "uploads"): "delete",
}
_NEEDED: Final = {"append_bytes": {"upload-offset": "0"}, "create_upload": {"upload-length": str(len(DATA))}}
"""Header fields that an operation is nothing without."""
_EXCLUDING: Final = frozenset({"add_uploads"})
"""Operations whose query and header fields do not go together."""
_ELSEWHERE: Final = frozenset({"cursor", "access_token"})
"""Parameters with tests of their own: one is of one list alone, the other is a credential."""
_JSON: Final[dict[str, Json]] = {
    "open_batch": {},
    "create_webhook": {"url": "https://receiver.invalid/hook"},
    "declare_files": {"entries": [{"ref": FILE, "filename": FILE, "size_bytes": 4}], "seal": True},
    "retry_batch": {},
    "create_token": {},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the document."""

    name: str
    method: str
    path: str
    parameters: tuple[Json, ...]
    bodies: frozenset[str]
    """Media types of its body."""

    @property
    def ids(self) -> list[str]:
        """What its path names."""
        return _NAMED.findall(self.path)

    def url(self, values: Mapping[str, str]) -> str:
        """Its path for these values. Raises KeyError where none is known for what it names."""
        return _NAMED.sub(lambda named: values[named[1]], self.path)

    def of(self, place: str) -> list[str]:
        """Names of its parameters in `header` or `query`."""
        return [one["name"] for one in self.parameters if one["in"] == place and one["name"] not in _ELSEWHERE]

    def plain(self) -> dict[str, Any]:
        """The arguments of a request that is as it should be, as httpx takes them."""
        body = self._body()
        return body | {"headers": self._spoken | body.get("headers", {}) | _NEEDED.get(self.name, {})}

    def requests(self) -> Iterator[dict[str, Any]]:
        """The arguments of requests: bare, plain, and with every parameter there is, in two where some exclude others.

        Raises KeyError for a parameter or a body that nobody has said a value for.
        """
        yield {"headers": self._spoken}
        plain = self.plain()
        yield plain
        headers = {name.lower(): _HEADERS[name.lower()]() for name in self.of("header")}
        query = {name: _QUERY.get((self.name, name)) or _QUERY[name] for name in self.of("query")}
        if self.name in _EXCLUDING:
            yield plain | {"params": query}
            query = {}
        yield plain | {"headers": plain["headers"] | headers, "params": query}

    @property
    def _spoken(self) -> dict[str, str]:
        return VERSION if "/tus" in self.path else {}

    def _body(self) -> dict[str, Any]:
        if "application/json" in self.bodies:
            return {"json": _JSON[self.name]}
        if "multipart/form-data" in self.bodies:
            return {"content": multipart(File("new", DATA)), "headers": FORM}
        if "application/offset+octet-stream" in self.bodies:
            return {"content": DATA, "headers": BODY}
        return {"content": DATA} if self.bodies else {}


OPERATIONS: Final = {
    operation["operationId"]: Operation(
        operation["operationId"],
        method.upper(),
        path,
        tuple(operation.get("parameters", ())),
        frozenset(operation.get("requestBody", {}).get("content", {})),
    )
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


@dataclass(frozen=True, slots=True)
class Belongings:
    """What an owner has: ids by what paths call them, each in all the states that make a difference."""

    ids: dict[str, list[str]]
    data: bytes
    """The content of one of the files."""

    def named_by(self, operation: Operation) -> Iterator[dict[str, str]]:
        """Values for all that a path names. Raises KeyError for what nobody has said ids of."""
        for values in product(*(self.ids[name] for name in operation.ids)):
            yield dict(zip(operation.ids, values, strict=True))

    @property
    def all_ids(self) -> list[str]:
        return [one for name, ids in self.ids.items() if name != "path" for one in ids]


def unknown(values: Mapping[str, str]) -> dict[str, str]:
    """The same, with ids that nobody has."""
    return {name: str(uuid4()) if name.endswith("_id") else value for name, value in values.items()}


async def make_belongings(client: httpx.AsyncClient) -> Belongings:
    """Make one thing of each kind for whoever the client is. It may be told of batches at addresses of this machine."""

    async def asked(method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401 - what httpx takes
        answer = await client.request(method, path, **request)
        assert answer.is_success, answer.text
        return answer

    async def opened(**new: object) -> str:
        return str((await asked("POST", "/v1/batches", json=new)).json()["id"])

    async def tus(length: int, **told: str) -> str:
        answer = await asked("POST", "/v1/tus", headers=VERSION | {"upload-length": str(length)} | told)
        return answer.headers["location"].rpartition("/")[2]

    data = b"what only its owner may know"
    files = multipart(File("one.txt", data), File("two.png", stored(picture(8, 8), "PNG")), File("../three"))
    job = (await asked("POST", "/v1/uploads", content=files, headers=FORM)).json()
    uploads = [result["upload"]["id"] for result in job["results"]]
    open_batch = await opened()
    entries = [{"ref": ref, "filename": ref, "size_bytes": 8} for ref in (FILE, "begun")]
    declared = (await asked("POST", f"/v1/batches/{open_batch}/manifest", json={"entries": entries})).json()["entries"]
    await asked("PUT", declared[1]["content_url"], content=DATA, headers={"upload-offset": "0"})
    uploads += [entry["upload_id"] for entry in declared]
    uploads += [await tus(8, **{"upload-metadata": metadata(batch_id=open_batch)})]
    part = await tus(4, **{"upload-concat": "partial"})
    await asked("PATCH", f"/v1/tus/{part}", content=DATA, headers=VERSION | BODY | {"upload-offset": "0"})
    cancelled = await opened(webhook_url="http://127.0.0.1:9/batch-s3cret")
    await asked("POST", f"/v1/batches/{cancelled}/cancel")
    webhook = (await asked("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook-s3cret"})).json()["id"]
    deliveries = (await asked("GET", f"/v1/webhooks/deliveries?batch_id={cancelled}")).json()["items"]
    return Belongings(
        {
            "batch_id": [job["batch"]["id"], open_batch, cancelled],
            "upload_id": [*uploads, part],
            "webhook_id": [webhook],
            "delivery_id": [one["id"] for one in deliveries],
            "path": [FILE, "new"],
        },
        data,
    )
